package client_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"batchwright/internal/client"
)

func TestDryRunsAreWaitedFor(t *testing.T) {
	t.Parallel()
	polls := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		switch r.Method + " " + r.URL.RequestURI() {
		case "POST /v1/batches?dry_run=true&kind=chat&max_cost_microusd=5&on_forecast_over=pause&route=r":
			w.WriteHeader(http.StatusAccepted)
			fmt.Fprint(w, `{"id":"b1","state":"planning"}`)
		case "POST /v1/batches?dry_run=true":
			fmt.Fprint(w, `{"batch_id":"b2","cost_microusd":null}`)
		case "GET /v1/batches/b1/forecast":
			if polls++; polls == 1 {
				w.WriteHeader(http.StatusAccepted)
				fmt.Fprint(w, `{"id":"b1","state":"planning"}`)
				return
			}
			fmt.Fprint(w, `{"batch_id":"b1","verdict":"pause","cost_microusd":{"p50":4,"p90":6},"steps":[{"model":"m","calls":{"p50":1,"p90":2}}]}`)
		default:
			t.Errorf("%s %s", r.Method, r.URL)
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer srv.Close()
	c, err := client.New(srv.URL, "bw_x")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	most := int64(5)
	f, err := c.ForecastNDJSON(t.Context(), strings.NewReader("{}"), client.BatchOptions{Kind: "chat", Route: "r", MaxCostMicrousd: &most, OnForecastOver: "pause"})
	if err != nil || polls != 2 || f.Verdict != "pause" || f.CostMicrousd == nil || f.CostMicrousd.P90 != 6 || len(f.Steps) != 1 || f.Steps[0].Calls.P90 != 2 {
		t.Errorf("%+v after %d polls, %v", f, polls, err)
	}
	if f, err = c.ForecastDocuments(t.Context(), nil, client.BatchOptions{Route: "r"}); err != nil || f.BatchID != "b2" || f.CostMicrousd != nil {
		t.Errorf("%+v, %v", f, err)
	}
}
