package command

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRerunSendsOptionsAndChanges(t *testing.T) {
	t.Parallel()
	var sent, options, body, kind string
	env := map[string]string{"BATCHWRIGHT_API_KEY": "bw_key", "BATCHWRIGHT_URL": serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		sent, options, body, kind = r.Method+" "+r.URL.Path, r.URL.Query().Get("options"), string(b), r.Header.Get("Content-Type")
		reply(w, http.StatusAccepted, `{"id":"b2","kind":"chat","state":"planning","total_jobs":2}`)
	})}
	if code, out, errs := run(t, env, "", "rerun", "b1", "--template", "latest", "--route", "nightly@2", "--max-age", "24h", "--priority", "0"); code != exitDone || out != "b2\n" {
		t.Fatalf("%d %q %q", code, out, errs)
	}
	if want := `{"template":"latest","route":"nightly@2","max_age_seconds":86400,"priority":0}`; sent != "POST /v1/batches/b1/rerun" || body != want || kind != "application/json" {
		t.Errorf("sent %s %s: %s", sent, kind, body)
	}
	file := filepath.Join(t.TempDir(), "edits.ndjson")
	if err := os.WriteFile(file, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--changes", file}, {"--changes", "-"}} {
		if code, _, errs := run(t, env, "{}\n", append([]string{"rerun", "b1", "--cache", "only"}, args...)...); code != exitDone {
			t.Fatalf("%d %q", code, errs)
		}
		if options != `{"cache":"only"}` || body != "{}\n" || kind != "application/x-ndjson" {
			t.Errorf("%v: sent %s %s: %s", args, kind, options, body)
		}
	}
	for _, args := range [][]string{{"--max-age", "0s"}, {"--params", "{"}, {"--max-age", "1000000h"}} {
		if code, _, _ := run(t, env, "", append([]string{"rerun", "b1"}, args...)...); code != exitUsage {
			t.Errorf("%v: %d", args, code)
		}
	}
}

func TestDiffShowsWhatChangedAndNothingThatATerminalObeys(t *testing.T) {
	t.Parallel()
	const summary = `{"items":5,"statuses":{"same":2,"changed":1,"new":1,"gone":1},"reasons":{"input":1,"template":3},"cost_before_microusd":9,"cost_after_microusd":1500000,"jobs_without_cost":1}`
	const items = `{"custom_id":"a","status":"same","reasons":[],"before":{"job_id":"x-1"},"after":{"job_id":"y-1"},"cost_difference_microusd":0}
{"custom_id":"b","status":"changed","reasons":["input","template"],"before":{"job_id":"x-2"},"after":{"job_id":"y-2"},"cost_difference_microusd":-7,"text_diff":"--- before\n+++ after\n@@ -1 +1 @@\n-a\u001b[2J\n+b\n"}
{"custom_id":null,"status":"gone","reasons":[],"before":{"job_id":"x-3"},"after":null,"cost_difference_microusd":null}
`
	var query string
	env := map[string]string{"BATCHWRIGHT_API_KEY": "bw_key", "BATCHWRIGHT_URL": serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/batches/x/diff/y/summary":
			reply(w, http.StatusOK, summary)
		case "/v1/batches/x/diff/y":
			query = r.URL.RawQuery
			reply(w, http.StatusOK, items)
		}
	})}
	code, out, errs := run(t, env, "", "diff", "x", "y", "--text")
	const want = `5 jobs: 2 same, 1 changed, 1 new, 1 gone; template of 3, input of 1; cost $1.500000, was $0.000009, without 1 job of unknown cost

changed  b  -$0.000007  (input, template)
    --- before
    +++ after
    @@ -1 +1 @@
    -a[2J
    +b
gone     x-3  unknown
`
	if code != exitDone || out != want || query != "format=ndjson&text=true" {
		t.Errorf("%d, %s, asked %s:\n%s", code, errs, query, out)
	}
	if code, out, _ = run(t, env, "", "diff", "x", "y", "--json", "--status", "changed"); code != exitDone || out != items || !strings.Contains(query, "status=changed") {
		t.Errorf("%d, asked %s:\n%s", code, query, out)
	}
}
