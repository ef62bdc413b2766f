package command

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestPriceCommands(t *testing.T) {
	t.Parallel()
	today := time.Now().UTC().Format(time.DateOnly)
	const reprice = `{"id":"r","dry_run":%t,"batches":1,"calls":9,"changed_calls":4,"reported_calls":1,"old_cost_microusd":5,"new_cost_microusd":1500000,"unknown_before":2,"finished_at":%s}`
	for _, tt := range []struct{ args, sent, answer, out string }{
		{"prices list --provider p --at 2026-01-31", "GET /v1/prices?at=2026-01-31&provider=p ",
			`{"data":[{"id":"a","source":"server","provider":"p","model":"m","valid_from":"2026-01-01","valid_to":null,"rates":{"input":150000,"output":1}}]}`,
			"p         m      2026-01-01  -   $0.150000  $0.000001  $0      $0     server  a\n"},
		{"prices set --provider p --model m --input 0.15 --output 0.6 --cache-write 1", "PUT /v1/prices " +
			`{"provider":"p","model":"m","valid_from":"` + today + `","rates":{"input":150000,"output":600000,"cached_input":150000,"cache_write":1000000}}`, `{"id":"c"}`, "c\n"},
		{"prices reprice --from 2026-01-01", `POST /v1/prices/reprice {"dry_run":true,"from":"2026-01-01T00:00:00Z"}`, fmt.Sprintf(reprice, true, `"2026-01-01T00:00:00Z"`),
			"cost after   $1.500000, and 0 calls of unknown cost\nleft alone   1 call whose provider said what it charged\n\nNothing was changed: repeat it with --apply to do so.\n"},
		{"prices reprice --apply --model m", `POST /v1/prices/reprice {"dry_run":false,"model":"m"}`, fmt.Sprintf(reprice, false, `"2026-01-01T00:00:00Z"`), "1 call whose provider said what it charged\n"},
		{"savings b", "GET /v1/batches/b/savings ", `{"cost_microusd":0,"data":[{"kind":"prefix_cache","provider":"p","model":"m","uses":2,"saved_microusd":-5}]}`, "-$0.000005\n"},
		{"savings b", "GET /v1/batches/b/savings ", `{"cost_microusd":3,"data":[]}`, "cost $0.000003, and 0 calls of unknown cost\nno cache saved anything\n"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			var sent string
			url := serve(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				sent = r.Method + " " + r.URL.RequestURI() + " " + string(body)
				reply(w, http.StatusOK, tt.answer)
			})
			code, out, errs := run(t, map[string]string{"BATCHWRIGHT_API_KEY": "bw_key", "BATCHWRIGHT_URL": url}, "", strings.Fields(tt.args)...)
			if code != exitDone || !strings.HasSuffix(out, tt.out) || errs != "" || sent != tt.sent {
				t.Errorf("got %d, %q, %q; the server got %s", code, out, errs, sent)
			}
		})
	}
	key := map[string]string{"BATCHWRIGHT_API_KEY": "bw_key"}
	if code, _, errs := run(t, key, "", "prices", "reprice", "--from", "yesterday"); code == exitDone || !strings.Contains(errs, `"yesterday" is neither a day`) {
		t.Errorf("got %d, %q", code, errs)
	}
}
