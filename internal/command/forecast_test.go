package command

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestDryRunShowsTheForecast(t *testing.T) {
	t.Parallel()
	const forecast = `{"batch_id":"b1","verdict":"pause","reason":"too dear","jobs":1200,"result_hits":100,"coalesced":50,"invalid_jobs":0,"counted_jobs":1050,"history_batches":3,
		"calls":{"p50":1050,"p90":1100},"input_tokens":{"p50":90000,"p90":95000},"output_tokens":{"p50":40000,"p90":52000},"cost_microusd":{"p50":1250000,"p90":1500000},
		"duration_ms":{"p50":4000,"p90":9000},"steps":[{"provider":"openai","model":"gpt-4.1-mini","history_of":"version","history_calls":2000,"calls":{"p50":1050,"p90":1100},
		"input_tokens":{"p50":90000},"output_tokens":{"p50":40000},"cost_microusd":null}]}`
	var sent string
	env := map[string]string{"BATCHWRIGHT_API_KEY": "bw_key", "BATCHWRIGHT_URL": serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		sent = r.Method + " " + r.URL.String()
		reply(w, http.StatusOK, forecast)
	})}
	for _, c := range []struct{ args, sent string }{
		{"submit --dry-run --kind chat --route r --max-cost-usd 1.25 --on-forecast-over pause -", "POST /v1/batches?dry_run=true&kind=chat&max_cost_microusd=1250000&on_forecast_over=pause&route=r"},
		{"forecast b1", "GET /v1/batches/b1/forecast"},
	} {
		code, out, errs := run(t, env, "{}\n", strings.Fields(c.args)...)
		if code != 0 || sent != c.sent {
			t.Errorf("%s: exit code %d, sent %s\n%s", c.args, code, sent, errs)
		}
		for _, want := range []string{"1,200 jobs: 100 from the cache, 50 like another, 1,050 to ask", "calls", "$1.250000", "$1.500000", "9.00 s",
			"openai:gpt-4.1-mini", "unknown", "2,000 of the version", "The batch is paused: too dear"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s", c.args, want, out)
			}
		}
	}
	code, _, errs := run(t, env, "", "submit", "--dry-run", "--route", "r", "--source", "s3://docs/*")
	if code != 2 || !strings.Contains(errs, "--on-forecast-over") {
		t.Errorf("of a source: exit code %d, %s", code, errs)
	}
}
