package client_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"batchwright/internal/client"
)

func TestBudgets(t *testing.T) {
	t.Parallel()
	gone := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.Method + " " + r.URL.RequestURI() {
		case "GET /v1/budgets":
			fmt.Fprint(w, `{"data":[{"id":"b","limit_microusd":5,"ends_at":null}],"next_cursor":"x"}`)
		case "GET /v1/budgets?cursor=x":
			fmt.Fprint(w, `{"data":[{"id":"a"}],"next_cursor":null}`)
		case "PATCH /v1/budgets/b":
			fmt.Fprint(w, `{"id":"b","limit_microusd":7}`)
		case "DELETE /v1/budgets/b":
			gone = true
			w.WriteHeader(http.StatusNoContent)
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
	all, err := c.Budgets(t.Context())
	if err != nil || len(all) != 2 || all[0].LimitMicrousd != 5 || all[1].ID != "a" {
		t.Errorf("%+v, %v", all, err)
	}
	if b, err := c.SetBudget(t.Context(), "b", 7); err != nil || b.LimitMicrousd != 7 {
		t.Errorf("%+v, %v", b, err)
	}
	if err := c.DeleteBudget(t.Context(), "b"); err != nil || !gone {
		t.Errorf("deleted %v, %v", gone, err)
	}
	if err := c.DeleteBudget(t.Context(), "c"); err == nil {
		t.Error("deleting what isn't there succeeded")
	}
}
