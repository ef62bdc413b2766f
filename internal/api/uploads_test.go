package api_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"mime/multipart"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/klauspost/compress/zstd"

	"batchwright/internal/api"
	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

func (f *fake) Append(ctx context.Context, p, id uuid.UUID, offset int32, in iter.Seq2[jobs.Line, error]) (jobs.Appended, error) {
	if _, err := f.Batch(ctx, p, id); err != nil {
		return jobs.Appended{}, err
	}
	if _, _, err := f.Submit(ctx, project, jobs.Spec{}, in); err != nil {
		return jobs.Appended{}, err
	}
	n := int32(len(f.lines))
	return jobs.Appended{TotalJobs: int64(offset + n), First: offset + 1, Last: offset + n}, nil
}

func (f *fake) Seal(ctx context.Context, p, id uuid.UUID) (store.Batch, error) {
	if f.writeErr != nil {
		return store.Batch{}, f.writeErr
	}
	return f.Batch(ctx, p, id)
}

func (f *fake) Purge(ctx context.Context, p, id uuid.UUID) error {
	if f.writeErr != nil {
		return f.writeErr
	}
	_, err := f.Batch(ctx, p, id)
	return err
}

func TestAnOpenUploadMayBeginWithoutJobs(t *testing.T) {
	t.Parallel()
	for _, c := range []call{
		{header: jsonType, body: "{" + chat + `,"open":true}`},
		{header: ndjsonType, path: "/v1/batches?kind=chat&route=r&open=true"},
	} {
		a := newAPI(t, &fake{})
		c.method = "POST"
		into[api.Batch](t, a.do(t, c), 202)
		if !a.spec.Open || len(a.lines) != 0 {
			t.Errorf("%+v, %d lines", a.spec, len(a.lines))
		}
	}
}

func TestThreeFormsOfAddingJobs(t *testing.T) {
	t.Parallel()
	const job1, job2 = `{"custom_id":"1"}`, `{"custom_id":"2"}`
	var form bytes.Buffer
	mw := multipart.NewWriter(&form)
	writePart(t, mw, `form-data; name="documents"; filename="a.md"`, "text/markdown", "# A")
	writePart(t, mw, `form-data; name="jobs"`, "", job2)
	if err := mw.Close(); err != nil {
		t.Fatal(err)
	}
	b := someBatch()
	path := "/v1/batches/" + b.ID.String() + "/jobs?offset=40"
	both := []line{{Number: 1, Raw: job1}, {Number: 2, Raw: job2}}
	for name, tt := range map[string]struct {
		contentType, body string
		want              []line
	}{
		"json":      {"application/json", `{"jobs":[` + job1 + `,` + job2 + `]}`, both},
		"ndjson":    {"application/x-ndjson", job1 + "\n" + job2, both},
		"multipart": {mw.FormDataContentType(), form.String(), []line{{Number: 1, Name: "a.md", Type: "text/markdown", Data: "# A"}, {Number: 2, Raw: job2}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, &fake{batches: []store.Batch{b}})
			got := into[api.Appended](t, a.do(t, call{method: "POST", path: path, header: map[string]string{"Content-Type": tt.contentType}, body: tt.body}), 200)
			if got != (api.Appended{TotalJobs: 42, FirstIndex: 41, LastIndex: 42}) {
				t.Errorf("%+v", got)
			}
			if diff := cmp.Diff(tt.want, a.lines); diff != "" {
				t.Error(diff)
			}
		})
	}
	a := newAPI(t, &fake{batches: []store.Batch{b}})
	for path, body := range map[string]string{
		strings.TrimSuffix(path, "?offset=40"): `{"jobs":[{}]}`, path: `{"jobs":[{}],"kind":"chat"}`, path + "&x=1": `{"jobs":[{}]}`, path + "1": `{}`,
	} {
		into[api.Problem](t, a.do(t, call{method: "POST", path: path, header: jsonType, body: body}), 400)
	}
	total := int64(17)
	a = newAPI(t, &fake{batches: []store.Batch{b}, writeErr: &jobs.Error{Code: jobs.Conflict, Message: "the upload has 17 jobs", TotalJobs: &total}})
	if p := into[api.Problem](t, a.do(t, call{method: "POST", path: path, header: ndjsonType, body: "{}"}), 409); p.TotalJobs == nil || *p.TotalJobs != 17 {
		t.Errorf("%+v", p)
	}
}

func TestSealAndPurge(t *testing.T) {
	t.Parallel()
	b := someBatch()
	b.State, b.OpenUpload = "ingesting", true
	a := newAPI(t, &fake{batches: []store.Batch{b}})
	path := "/v1/batches/" + b.ID.String()
	if got := into[api.Batch](t, a.do(t, call{method: "POST", path: path + "/seal"}), 200); !got.Open || got.State != "ingesting" {
		t.Errorf("%+v", got)
	}
	if w := a.do(t, call{method: "DELETE", path: path}); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	into[api.Problem](t, a.do(t, call{method: "DELETE", path: "/v1/batches/" + uuid.NewString()}), 404)
	a.writeErr = &jobs.Error{Code: jobs.Conflict, Message: "the batch is not final"}
	into[api.Problem](t, a.do(t, call{method: "DELETE", path: path}), 409)
	at := time.Now()
	b.State, b.PurgedAt = "completed", &at
	a = newAPI(t, &fake{batches: []store.Batch{b}})
	if got := into[api.Batch](t, a.do(t, call{path: path}), 200); got.PurgedAt == nil || got.Open {
		t.Errorf("%+v", got)
	}
	if p := into[api.Problem](t, a.do(t, call{path: path + "/results"}), 410); !strings.Contains(p.Detail, "purged") {
		t.Error(p.Detail)
	}
	if got := into[api.JobPage](t, a.do(t, call{path: path + "/jobs"}), 200); len(got.Data) != 0 {
		t.Errorf("%+v", got)
	}
}

func TestZstdBodies(t *testing.T) {
	t.Parallel()
	pack := func(text io.Reader, o ...zstd.EOption) string {
		var b bytes.Buffer
		z, err := zstd.NewWriter(&b, o...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(z, text); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.String()
	}
	a := newAPI(t, &fake{}, func(s *api.Server) { s.MaxBody = 1 << 20 })
	send := func(contentType, path, body string) *httptest.ResponseRecorder {
		return a.do(t, call{method: "POST", path: path, header: map[string]string{"Content-Type": contentType, "Content-Encoding": "zstd"}, body: body})
	}
	into[api.Batch](t, send("application/json", "/v1/batches", pack(strings.NewReader("{"+chat+`,"jobs":[{},{}]}`))), 202)
	const stream = "/v1/batches?kind=chat&route=r"
	whole := pack(strings.NewReader(strings.Repeat("{}\n", 1000)))
	into[api.Batch](t, send("application/x-ndjson", stream, whole), 202)
	if len(a.lines) != 1000 {
		t.Errorf("%d lines", len(a.lines))
	}
	bomb := pack(io.LimitReader(spaces{}, 128<<20))
	if len(bomb) > 1<<17 {
		t.Fatalf("the bomb weighs %d bytes", len(bomb))
	}
	for _, c := range [][2]string{{"application/x-ndjson", stream}, {"application/json", "/v1/batches"}} {
		if p := into[api.Problem](t, send(c[0], c[1], bomb), 413); !strings.Contains(p.Detail, "1048576 bytes") {
			t.Error(p.Detail)
		}
	}
	for body, want := range map[string]string{
		whole[:len(whole)-3]:                "broke off",
		"not compressed":                    "Content-Encoding",
		whole[:8] + "\xff\xff" + whole[10:]: "Content-Encoding",
		pack(io.LimitReader(spaces{}, 64<<20), zstd.WithWindowSize(64<<20)): "window",
	} {
		if p := into[api.Problem](t, send("application/x-ndjson", stream, body), 400); !strings.Contains(p.Detail, want) {
			t.Errorf("%s: want %q", p.Detail, want)
		}
	}
}

// spaces never ends.
type spaces struct{}

func (spaces) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = " \n"[i%2]
	}
	return len(p), nil
}

// TestADecompressedBodyTakesLittleMemory holds the zstd decoder to its window.
func TestADecompressedBodyTakesLittleMemory(t *testing.T) { //nolint:paralleltest // it measures the whole process
	a := newAPI(t, &fake{})
	h := (&api.Server{Jobs: idle{}, Read: a.fake}).Handler()
	var packed bytes.Buffer
	z, err := zstd.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200_000 {
		fmt.Fprintf(z, `{"custom_id":"%d","body":{"text":"%s"}}`+"\n", i, strings.Repeat("x", i%500))
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/batches?kind=chat&route=r", bytes.NewReader(packed.Bytes()))
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", "application/x-ndjson")
	r.Header.Set("Content-Encoding", "zstd")
	w := httptest.NewRecorder()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	h.ServeHTTP(w, r)
	runtime.ReadMemStats(&after)
	if w.Code != 202 {
		t.Fatal(w.Body)
	}
	got := after.TotalAlloc - before.TotalAlloc
	if got > 24<<20 {
		t.Errorf("%d bytes for one body: want at most three windows", got)
	}
}
