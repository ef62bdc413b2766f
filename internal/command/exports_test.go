package command

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

func TestExportsAreAskedForAndWaitedFor(t *testing.T) {
	t.Parallel()
	const id = "e1"
	asked, body, question := 0, "", ""
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		export := `{"id":"` + id + `","batch_id":"b1","state":"running","rows":2,"target":"s3://r/{batch}.csv"`
		switch r.Method + " " + r.URL.String() {
		case "POST /v1/batches/b1/exports":
			text, _ := io.ReadAll(r.Body)
			body = string(text)
			reply(w, http.StatusAccepted, export+"}")
		case "POST /v1/reports/daily_costs/exports":
			text, _ := io.ReadAll(r.Body)
			question = string(text)
			reply(w, http.StatusAccepted, strings.Replace(export, `"b1"`, "null", 1)+"}")
		case "GET /v1/exports/" + id:
			if asked++; asked == 2 {
				reply(w, http.StatusOK, strings.Replace(export, "running", "failed", 1)+`,"url":"s3://r/b1.csv","error":"target: no","ended_at":"2026-12-01T00:00:00Z"}`)
				return
			}
			reply(w, http.StatusOK, export+"}")
		case "GET /v1/exports?limit=200&state=failed":
			reply(w, http.StatusOK, `{"data":[`+strings.Replace(export, "running", "failed", 1)+`}],"next_cursor":null}`)
		case "GET /v1/batches/b1/exports?limit=200":
			reply(w, http.StatusOK, `{"data":[`+export+`},`+strings.Replace(export, "running", "pending", 1)+`}],"next_cursor":null}`)
		default:
			t.Errorf("%s %s", r.Method, r.URL)
		}
	})
	env := map[string]string{"BATCHWRIGHT_API_KEY": "bw_key", "BATCHWRIGHT_URL": url}
	for _, tt := range []struct {
		args string
		code int
		out  string
	}{
		{"export b1 --target s3://r/{batch}.csv --format csv --from 3", exitDone, "e1  running  2 rows  s3://r/{batch}.csv\n"},
		{"exports wait e1", exitFailed, "e1  failed  2 rows  s3://r/b1.csv  target: no\n"},
		{"exports list --state failed", exitDone, "e1  failed  2 rows  s3://r/{batch}.csv\n"},
		{"exports list b1 --state pending", exitDone, "e1  pending  2 rows  s3://r/{batch}.csv\n"},
		{"export b1 --target s3://r/x --out y", exitUsage, ""},
		{"report daily_costs --from 2026-12-01 --by day,model --where kind=chat --sort -day --target s3://r/x --csv --bom", exitDone, "e1  running  2 rows  s3://r/{batch}.csv\n"},
		{"report daily_costs --target s3://r/x", exitUsage, ""},
		{"report daily_costs --target s3://r/x --csv --out y", exitUsage, ""},
		{"report daily_costs --target s3://r/x --csv --limit 3", exitUsage, ""},
	} {
		if code, out, errs := run(t, env, "", strings.Fields(tt.args)...); code != tt.code || out != tt.out {
			t.Errorf("%s: %d, %q, %q", tt.args, code, out, errs)
		}
	}
	if strings.TrimSpace(body) != `{"format":"csv","target":"s3://r/{batch}.csv","from":3}` {
		t.Errorf("sent %s", body)
	}
	if want := `{"format":"csv","target":"s3://r/x","bom":true,"from":"2026-12-01","by":["day","model"],"where":["kind=chat"],"sort":["-day"]}`; strings.TrimSpace(question) != want {
		t.Errorf("sent %s, want %s", question, want)
	}
}
