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

func TestPrices(t *testing.T) {
	t.Parallel()
	var asked []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		asked = append(asked, r.Method+" "+r.URL.RequestURI()+" "+string(body))
		switch r.Method + " " + r.URL.RequestURI() {
		case "GET /v1/prices?at=2026-01-31&provider=p":
			fmt.Fprint(w, `{"data":[{"id":"a","valid_to":null,"rates":{"input":5}}],"next_cursor":"x"}`)
		case "GET /v1/prices?at=2026-01-31&cursor=x&provider=p":
			fmt.Fprint(w, `{"data":[{"id":"b","valid_to":"2026-02-01"}],"next_cursor":null}`)
		case "PUT /v1/prices":
			fmt.Fprint(w, `{"id":"c","source":"project"}`)
		case "DELETE /v1/prices/c":
			w.WriteHeader(http.StatusNoContent)
		case "POST /v1/prices/reprice":
			fmt.Fprint(w, `{"id":"r","calls":1,"finished_at":null}`)
		case "POST /v1/prices/reprices/r":
			fmt.Fprint(w, `{"id":"r","calls":2,"finished_at":"2026-01-01T00:00:00Z"}`)
		case "GET /v1/batches/b/savings":
			fmt.Fprint(w, `{"cost_microusd":3,"data":[{"kind":"coalesced","saved_microusd":9}]}`)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	defer srv.Close()
	c, err := client.New(srv.URL, "bw_x")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	all, err := c.Prices(t.Context(), "p", "", "2026-01-31")
	if err != nil || len(all) != 2 || all[0].Rates.Input != 5 || all[0].ValidTo != nil || *all[1].ValidTo != "2026-02-01" {
		t.Errorf("%+v, %v", all, err)
	}
	if p, err := c.SetPrice(t.Context(), client.NewPrice{Provider: "p", Model: "m", ValidFrom: "2026-01-01", Rates: client.Rates{Input: 1}}); err != nil || p.ID != "c" {
		t.Errorf("%+v, %v", p, err)
	}
	if sent := asked[2]; !strings.Contains(sent, `{"provider":"p","model":"m","valid_from":"2026-01-01","rates":{"input":1,"output":0,"cached_input":0,"cache_write":0}}`) {
		t.Errorf("sent %s", sent)
	}
	if err := c.DeletePrice(t.Context(), "c"); err != nil {
		t.Error(err)
	}
	if err := c.DeletePrice(t.Context(), "d"); err == nil {
		t.Error("deleting what isn't there succeeded")
	}
	r, err := c.Reprice(t.Context(), client.NewReprice{})
	if err != nil || r.Calls != 2 || r.FinishedAt == nil { // a real run says so: the server takes silence for a dry one
		t.Errorf("%+v, %v", r, err)
	}
	if !strings.Contains(strings.Join(asked, "\n"), `POST /v1/prices/reprice {"dry_run":false}`) {
		t.Errorf("asked %q", asked)
	}
	if s, err := c.Savings(t.Context(), "b"); err != nil || s.CostMicrousd != 3 || s.Data[0].SavedMicrousd != 9 {
		t.Errorf("%+v, %v", s, err)
	}
}
