package store_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// someLogs makes n requests, a second apart, the oldest first.
func someLogs(gateway string, n int) []store.GatewayLog {
	start := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	logs := make([]store.GatewayLog, n)
	for i := range logs {
		cost := int64(i) * 1000
		logs[i] = store.GatewayLog{ID: uuid.Must(uuid.NewV7()), Account: "acc", Gateway: gateway, CreatedAt: start.Add(time.Duration(i) * time.Second),
			EventID: fmt.Sprint("row-", i), RequestID: "r", Provider: "openai", Model: "gpt", ModelType: "chat", Path: "chat/completions", RequestType: "native",
			RequestContentType: "application/json", ResponseContentType: "text/event-stream", UserAgent: "test", StatusCode: 200, Success: true, Authenticated: true, Streamed: true,
			Duration: 1234567 * time.Microsecond, TokensIn: int64(i), TokensOut: 2, CostNanoUSD: &cost, Metadata: json.RawMessage(`{"team": "blue"}`), Step: 1,
			RequestSize: 3, ResponseSize: 4, Request: []byte("ask"), Response: []byte("said")}
	}
	return logs
}

func TestGatewayLogComesBackAsItWas(t *testing.T) {
	t.Parallel()
	db, ctx := storetest.New(t), t.Context()
	newGateway(t, db, "gw")
	want := someLogs("gw", 2)
	want[0].Feedback, want[0].Score = new(-1), new(0.25)
	want[0].CustomCost, want[0].CustomCostRates, want[0].DLPAction = true, json.RawMessage(`{"total_cost": 0.1}`), "MASK"
	want[1].CostNanoUSD, want[1].Metadata, want[1].Request = nil, nil, nil
	for range 2 { // a try whose answer was lost is made again
		if err := db.InsertGatewayLogs(ctx, want); err != nil {
			t.Fatal(err)
		}
	}
	for i, w := range want {
		got, err := db.GatewayLog(ctx, "acc", "gw", w.ID)
		if err != nil {
			t.Fatal(err)
		}
		if !got.CreatedAt.Equal(w.CreatedAt) {
			t.Errorf("log %d: created %v, want %v", i, got.CreatedAt, w.CreatedAt)
		}
		got.CreatedAt, w.Request, w.Response = w.CreatedAt, nil, nil
		if a, b := fmt.Sprintf("%+v", deref(got)), fmt.Sprintf("%+v", deref(w)); a != b {
			t.Errorf("log %d:\n got %s\nwant %s", i, a, b)
		}
	}
	body, kind, err := db.GatewayLogBody(ctx, "acc", "gw", want[1].ID, true)
	if err != nil || string(body) != "said" || kind != "text/event-stream" {
		t.Errorf("body %q %q %v", body, kind, err)
	}
	if _, _, err := db.GatewayLogBody(ctx, "acc", "gw", want[1].ID, false); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a body that wasn't kept: %v", err)
	}
	if _, _, err := db.GatewayLogBody(ctx, "acc", "other", want[0].ID, false); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another gateway's body: %v", err)
	}
	request, response, err := db.GatewayLogHeads(ctx, "acc", "gw", want[0].ID, 2)
	if err != nil || string(request) != "as" || string(response) != "sa" {
		t.Errorf("heads %q %q %v", request, response, err)
	}
}

// deref makes pointers comparable as text.
func deref(l store.GatewayLog) any {
	type flat struct {
		store.GatewayLog
		cost, feedback, score string
	}
	f := flat{GatewayLog: l}
	if l.CostNanoUSD != nil {
		f.cost = fmt.Sprint(*l.CostNanoUSD)
	}
	if l.Feedback != nil {
		f.feedback = fmt.Sprint(*l.Feedback)
	}
	if l.Score != nil {
		f.score = fmt.Sprint(*l.Score)
	}
	f.CostNanoUSD, f.Feedback, f.Score = nil, nil, nil
	return f
}

// TestHostileLogCostsNobodyTheirRow: one set holds what Postgres refuses, and all rows arrive.
func TestHostileLogCostsNobodyTheirRow(t *testing.T) {
	t.Parallel()
	db, ctx := storetest.New(t), t.Context()
	newGateway(t, db, "gw")
	logs := someLogs("gw", 6)
	logs[1].UserAgent, logs[1].Path, logs[1].Model, logs[1].EventID = "\xff\x00agent", "a\x00b", "\xf0\x28", "'; drop table gateway_logs; --"
	logs[2].Metadata = json.RawMessage(`{"a":"\u0000x","b":"\ud800","c":1e400000,"d\u0000":[{"e":"\u0000"}]}`)
	logs[3].Metadata, logs[3].CustomCostRates = json.RawMessage(`not json`), json.RawMessage(`[1]`)
	logs[4].Metadata = json.RawMessage("{\"raw\":\"\xff\"}")
	logs[5].Account = "a gateway that isn't there"
	if err := db.InsertGatewayLogs(ctx, logs); err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{`{"team": "blue"}`, `{"team": "blue"}`, "{\"a\": \"x\", \"b\": \"\uFFFD\", \"c\": \"1e400000\", \"d\": [{\"e\": \"\"}]}", "", "{\"raw\": \"\uFFFD\"}"} {
		got, err := db.GatewayLog(ctx, "acc", "gw", logs[i].ID)
		if err != nil || string(got.Metadata) != want {
			t.Errorf("log %d: metadata %s, want %s, %v", i, got.Metadata, want, err)
		}
	}
	got, err := db.GatewayLog(ctx, "acc", "gw", logs[1].ID)
	if err != nil || got.UserAgent != "\uFFFDagent" || got.Path != "ab" || got.EventID != logs[1].EventID {
		t.Errorf("%+v, %v", got, err)
	}
	if n, err := db.CountGatewayLogs(ctx, "acc", "gw"); err != nil || n != 5 {
		t.Errorf("%d rows, %v", n, err)
	}
}

func TestLargeSetOfLogs(t *testing.T) {
	t.Parallel()
	db, ctx := storetest.New(t), t.Context()
	newGateway(t, db, "gw")
	logs := someLogs("gw", 4500)
	for i := range 5 {
		logs[i*900].Response = bytes.Repeat([]byte{byte(i)}, 10<<20)
	}
	if err := db.InsertGatewayLogs(ctx, logs); err != nil {
		t.Fatal(err)
	}
	if n, err := db.CountGatewayLogs(ctx, "acc", "gw"); err != nil || n != 4500 {
		t.Fatalf("%d rows, %v", n, err)
	}
	body, _, err := db.GatewayLogBody(ctx, "acc", "gw", logs[3600].ID, true)
	if err != nil || !bytes.Equal(body, logs[3600].Response) {
		t.Errorf("%d bytes, %v", len(body), err)
	}
}

func TestTrimKeepsTheNewest(t *testing.T) {
	t.Parallel()
	db, ctx := storetest.New(t), t.Context()
	newGateway(t, db, "gw")
	newGateway(t, db, "other")
	logs := someLogs("gw", 50)
	if err := db.InsertGatewayLogs(ctx, append(slices.Clone(logs), someLogs("other", 5)...)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []int64{38, 0} {
		if n, err := db.TrimGatewayLogs(ctx, "acc", "gw", 12); err != nil || n != want {
			t.Fatalf("trimmed %d, want %d, %v", n, want, err)
		}
	}
	page, err := db.GatewayLogs(ctx, store.GatewayLogQuery{Account: "acc", Gateway: "gw", Page: 1, PerPage: 100})
	if err != nil || len(page.Logs) != 12 || page.Logs[0].ID != logs[38].ID || page.Totals.Count != 12 {
		t.Errorf("%d rows, %v", len(page.Logs), err)
	}
	if _, _, err := db.GatewayLogBody(ctx, "acc", "gw", logs[0].ID, false); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a trimmed row's body: %v", err)
	}
	if n, err := db.CountGatewayLogs(ctx, "acc", "other"); err != nil || n != 5 {
		t.Errorf("the other gateway has %d, %v", n, err)
	}
}

// TestEveryFilterIsAStatement runs each key with each operator that goes with it, with a value that would do harm if it weren't a parameter.
func TestEveryFilterIsAStatement(t *testing.T) {
	t.Parallel()
	db, ctx := storetest.New(t), t.Context()
	newGateway(t, db, "gw")
	if err := db.InsertGatewayLogs(ctx, someLogs("gw", 3)); err != nil {
		t.Fatal(err)
	}
	keys := strings.Fields(`id created_at request_content_type response_content_type request_type success cached provider model model_type cost tokens tokens_in
		tokens_out duration feedback event_id metadata.key metadata.value authentication wholesale compatibilityMode dlp_action user_agent`)
	ran := 0
	for _, key := range keys {
		for _, operator := range []string{"eq", "neq", "contains", "lt", "gt", "lte", "gte"} {
			taken := 0
			for _, value := range []string{`'; drop table gateway_logs; --`, "7.5", "true", "2026-11-21T10:00:01Z", uuid.NewString(), "1"} {
				f, err := store.NewGatewayLogFilter(key, operator, []string{value, value})
				if err != nil {
					if strings.Contains(err.Error(), "drop") {
						t.Errorf("an error repeats a value: %v", err)
					}
					continue
				}
				taken++
				q := store.GatewayLogQuery{Account: "acc", Gateway: "gw", Filters: []store.GatewayLogFilter{f, f}, OrderBy: "cost", Page: 1, PerPage: 5}
				if _, err := db.GatewayLogs(ctx, q); err != nil {
					t.Errorf("%s %s: %v", key, operator, err)
				}
				ran++
			}
			if taken == 0 && (operator == "eq" || operator == "neq") {
				t.Errorf("%s %s takes nothing", key, operator)
			}
		}
	}
	if ran < 100 {
		t.Errorf("%d statements ran", ran)
	}
	for _, order := range append(store.GatewayLogOrders(), "", "id; drop table gateway_logs") {
		for _, down := range []bool{false, true} {
			if _, err := db.GatewayLogs(ctx, store.GatewayLogQuery{Account: "acc", Gateway: "gw", OrderBy: order, Descending: down, PerPage: 2}); err != nil {
				t.Errorf("order by %s: %v", order, err)
			}
		}
	}
	if n, err := db.CountGatewayLogs(ctx, "acc", "gw"); err != nil || n != 3 {
		t.Errorf("%d rows are left, %v", n, err)
	}
}

// BenchmarkInsertGatewayLogs writes sets of 500 requests with bodies of a kilobyte.
func BenchmarkInsertGatewayLogs(b *testing.B) {
	db := storetest.New(b)
	newGateway(b, db, "gw")
	const set = 500
	body := bytes.Repeat([]byte("x1y2"), 256)
	for b.Loop() {
		b.StopTimer()
		logs := someLogs("gw", set)
		for i := range logs {
			logs[i].Request, logs[i].Response = body, body
		}
		b.StartTimer()
		if err := db.InsertGatewayLogs(b.Context(), logs); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*set)/b.Elapsed().Seconds(), "rows/s")
}
