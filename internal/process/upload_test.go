package process_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"batchwright/internal/process"
	"batchwright/internal/store/storetest"
)

// TestAClientThatVanishesLeavesAFailedBatchThatCanBeDeleted cuts the connection in the middle of a submission that can be seen by then.
func TestAClientThatVanishesLeavesAFailedBatchThatCanBeDeleted(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	conn, err := net.Dial("tcp", s.env["HTTP_ADDR"])
	if err != nil {
		t.Fatal(err)
	}
	const key = "Idempotency-Key"
	lines := products(12_000)
	_, err = fmt.Fprintf(conn, "POST /v1/batches?kind=generate&template=blurb&route=simulator/sim-1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n"+
		"Content-Type: application/x-ndjson\r\n%s: night\r\nContent-Length: %d\r\n\r\n%s", s.key, key, len(lines)+1, lines)
	if err != nil {
		t.Fatal(err)
	}
	var id string
	await(t, "10,000 jobs to be stored", func() bool {
		var page struct{ Data []batch }
		s.do(t, http.MethodGet, "/v1/batches", "", nil).json(t, &page)
		if len(page.Data) != 1 || page.Data[0].State != "ingesting" {
			return false
		}
		id = page.Data[0].ID
		return page.Data[0].Total == 10_000
	})
	if r := s.generate(t, "", lines, key, "night"); r.status != http.StatusConflict || !strings.Contains(string(r.body), "being uploaded") {
		t.Errorf("the same key meanwhile: %d %s", r.status, r.body)
	}
	if r := s.do(t, http.MethodDelete, "/v1/batches/"+id, "", nil); r.status != http.StatusConflict {
		t.Errorf("deleted meanwhile: %d %s", r.status, r.body)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	b := s.finish(t, id)
	if b.State != "failed" || b.Stats.Jobs.Pending != 0 {
		t.Errorf("%+v", b)
	}
	if b := accepted(t, s.generate(t, "", lines[:strings.Index(lines, "\n")], key, "night")); b.ID == id {
		t.Error("the key still stands for what broke off")
	}
	if r := s.do(t, http.MethodDelete, "/v1/batches/"+id, "", nil); r.status != http.StatusNoContent {
		t.Errorf("delete: %d %s", r.status, r.body)
	}
	if r := s.do(t, http.MethodGet, "/v1/batches/"+id, "", nil); r.status != http.StatusNotFound {
		t.Errorf("a deleted upload: %d %s", r.status, r.body)
	}
}

// TestAnUploadInSeveralRequestsRunsAndIsPurged follows a batch from an open upload to its purge.
func TestAnUploadInSeveralRequestsRunsAndIsPurged(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	b := accepted(t, s.post(t, "/v1/batches", `{"kind":"generate","template":"blurb","route":"simulator/sim-1","open":true,
		"jobs":[{"custom_id":"first","variables":{"name":"first"}}]}`, "Idempotency-Key", "session"))
	if again := accepted(t, s.post(t, "/v1/batches", `{"kind":"generate","template":"blurb","route":"simulator/sim-1","open":true,
		"jobs":[{"custom_id":"first","variables":{"name":"first"}}]}`, "Idempotency-Key", "session")); again.ID != b.ID || b.State != "ingesting" {
		t.Errorf("%+v and %+v", b, again)
	}
	add := func(offset int, body io.Reader, header ...string) reply {
		return s.do(t, http.MethodPost, fmt.Sprintf("/v1/batches/%s/jobs?offset=%d", b.ID, offset), "application/x-ndjson", body, header...)
	}
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(z, products(30)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		offset, status, total int
		body                  []byte
		header                []string
	}{
		{1, http.StatusOK, 31, packed.Bytes(), []string{"Content-Encoding", "zstd"}},
		{1, http.StatusConflict, 31, packed.Bytes(), []string{"Content-Encoding", "zstd"}}, // as if the answer had been lost
		{31, http.StatusUnprocessableEntity, 0, []byte("{\"custom_id\":\"x\",\"variables\":{\"name\":\"x\"}}\n{\"variables\":{}}"), nil},
		{31, http.StatusOK, 32, []byte(`{"custom_id":"last","variables":{"name":"last"}}`), nil},
	} {
		r := add(tt.offset, bytes.NewReader(tt.body), tt.header...)
		var got struct {
			Total int `json:"total_jobs"`
		}
		if r.json(t, &got); r.status != tt.status || got.Total != tt.total {
			t.Errorf("%+v: %d %s", tt.offset, r.status, r.body)
		}
	}
	for range 2 {
		if r := s.post(t, "/v1/batches/"+b.ID+"/seal", ""); r.status != http.StatusOK {
			t.Fatalf("seal: %d %s", r.status, r.body)
		}
	}
	if done := s.finish(t, b.ID); done.State != "completed" || done.Stats.Jobs.Succeeded != 32 || done.Stats.Calls != 32 {
		t.Fatalf("%+v", done)
	}
	if lines := s.results(t, b.ID); len(lines) != 32 || lines[0].CustomID != "first" || lines[31].CustomID != "last" || lines[31].Index != 32 {
		t.Errorf("%d results", len(lines))
	}
	const costs = `select sum(calls) || ' ' || sum(input_tokens) || ' ' || sum(cost_microusd) from reports.daily_costs`
	before := storetest.Scalar[string](t, s.env["DATABASE_URL"], costs)
	if r := s.do(t, http.MethodDelete, "/v1/batches/"+b.ID, "", nil); r.status != http.StatusNoContent {
		t.Fatalf("purge: %d %s", r.status, r.body)
	}
	if after := storetest.Scalar[string](t, s.env["DATABASE_URL"], costs); after != before || !strings.HasPrefix(after, "32 ") {
		t.Errorf("costs %s, and %s before", after, before)
	}
	if r := s.do(t, http.MethodGet, "/v1/batches/"+b.ID+"/results", "", nil); r.status != http.StatusGone {
		t.Errorf("results: %d %s", r.status, r.body)
	}
	if got := s.batch(t, b.ID); got.State != "completed" || got.Stats.Jobs.Succeeded != 32 || got.Total != 32 {
		t.Errorf("%+v", got)
	}
}

func TestProjectSettings(t *testing.T) {
	t.Parallel()
	s := &system{env: map[string]string{"DATABASE_URL": storetest.URL(t)}}
	s.newKey(t, "nightly")
	days, weight, wrong := int32(90), int32(3), int32(-1)
	if err := process.SetProject(t.Context(), s.getenv, "nightly", &days, &weight, nil); err != nil {
		t.Fatal(err)
	}
	if got := storetest.Scalar[string](t, s.env["DATABASE_URL"], `select retention_days || ' ' || weight from projects`); got != "90 3" {
		t.Error(got)
	}
	for _, err := range []error{
		process.SetProject(t.Context(), s.getenv, "daily", &days, nil, nil), process.SetProject(t.Context(), s.getenv, "nightly", nil, nil, nil),
		process.SetProject(t.Context(), s.getenv, "nightly", &wrong, nil, nil), process.SetProject(t.Context(), s.getenv, "nightly", nil, &wrong, nil),
	} {
		if err == nil {
			t.Error("no error")
		}
	}
}
