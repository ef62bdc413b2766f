package command

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// answering serves one answer to every request and keeps what was asked.
type answering struct{ sent, kind, body string }

func (a *answering) env(t *testing.T, status int, answer string) map[string]string {
	return map[string]string{"BATCHWRIGHT_API_KEY": "bw_key", "BATCHWRIGHT_URL": serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.sent, a.kind, a.body = r.Method+" "+r.URL.String(), r.Header.Get("Content-Type"), string(body)
		reply(w, status, answer)
	})}
}

func TestSavedTemplateTellsFindings(t *testing.T) {
	t.Parallel()
	var a answering
	env := a.env(t, http.StatusCreated, `{"ref":"t@1","findings":[{"severity":"warning","code":"date_in_stable_part","field":"system","line":2,"message":"a date\u001b[2J"},
		{"severity":"note","code":"stable_part_short","field":"","line":0,"message":"short"}]}`)
	code, out, errs := run(t, env, `{"name":"t","spec":{}}`, "template", "save", "-")
	const want = "warning: system, line 2: a date[2J (date_in_stable_part)\nnote: short (stable_part_short)\n"
	if code != exitDone || out != "t@1\n" || errs != want {
		t.Errorf("%d %q %q", code, out, errs)
	}
}

func TestLintFailsOnWarningsOnly(t *testing.T) {
	t.Parallel()
	var a answering
	path := file(t, "t.json", `{"name":"t","spec":{"user":"x"}}`)
	env := a.env(t, http.StatusOK, `{"findings":[{"severity":"note","code":"c","field":"","line":0,"message":"m"}],"inputs":[]}`)
	if code, out, errs := run(t, env, "", "template", "lint", path, "--route", "openai:gpt-5.2"); code != exitDone || out != "note: m (c)\n" || errs != "" {
		t.Errorf("%d %q %q", code, out, errs)
	}
	if want := `{"spec":{"user":"x"},"route":"openai:gpt-5.2"}`; a.sent != "POST /v1/templates/t/preview" || a.body != want {
		t.Errorf("sent %s %s", a.sent, a.body)
	}
	env = a.env(t, http.StatusOK, `{"findings":[{"severity":"warning","code":"c","field":"user","line":1,"message":"m"}],"inputs":[]}`)
	if code, out, errs := run(t, env, "", "template", "lint", path); code != exitIncomplete || out != "warning: user, line 1: m (c)\n" || errs != "batchwright: t: 1 warning\n" {
		t.Errorf("%d %q %q", code, out, errs)
	}
}

func TestPreviewShowsRequestsAndWhatAnEditDiscards(t *testing.T) {
	t.Parallel()
	var a answering
	const answer = `{"ref":null,"findings":[],"stable":{"messages":1,"bytes":6,"tokens":1234},"discards":{"results":12,"cost_microusd":1500000,"results_without_cost":2},"inputs":[
		{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Text: a\n  b\u001b[2J"}],"tokens":20,"keys":[{"model":"m","key":"00"}],"cached":"m","error":null},
		{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"Text: c"}],"tokens":1,"keys":[{"model":"m","key":"01"}],"cached":null,"error":null},
		{"messages":[],"tokens":0,"keys":[],"cached":null,"error":"variables.text: is missing"}]}`
	env := a.env(t, http.StatusOK, answer)
	path := file(t, "t.json", `{"name":"t","spec":{"user":"x"}}`)
	jobs := file(t, "jobs.ndjson", `{"custom_id":"1","variables":{"text":"a"}}`+"\n\n"+`{"custom_id":"2"}`+"\n"+`{"variables":{}}`+"\n")
	code, out, errs := run(t, env, "", "template", "preview", path, "--inputs", jobs, "-n", "2", "--route", "m:m")
	const want = `t, not saved: requests share 1 message and 6 bytes of the next, about 1,234 tokens
Saving it discards 12 cached answers, which had cost $1.500000, without 2 of unknown cost

Input 1, about 20 tokens, answered by the cache (m)
  system
    Be brief.
  user
    Text: ⟨what varies begins here⟩a
      b[2J

Input 2, about 1 token, not in the cache
  system
    Be brief.
  user
    Text: ⟨what varies begins here⟩c

Input 3: variables.text: is missing
`
	if code != exitDone || out != want || errs != "" {
		t.Errorf("%d %q\n%s", code, errs, out)
	}
	if want := `{"spec":{"user":"x"},"route":"m:m","inputs":[{"text":"a"},{}]}`; a.sent != "POST /v1/templates/t/preview" || a.body != want {
		t.Errorf("sent %s %s", a.sent, a.body)
	}
	if code, out, _ := run(t, env, "", "template", "preview", "blurb@3", "--json"); code != exitDone || out != answer+"\n" || a.sent != "POST /v1/templates/blurb/preview" || a.body != `{"version":3}` {
		t.Errorf("%d %s; sent %s %s", code, out, a.sent, a.body)
	}
	for _, args := range [][]string{{"blurb@x"}, {"blurb@0"}, {"blurb", "-n", "101"}} {
		if code, _, _ := run(t, env, "", append([]string{"template", "preview"}, args...)...); code != exitUsage {
			t.Errorf("%v: %d", args, code)
		}
	}
}

func TestTableIsSubmittedAsCSV(t *testing.T) {
	t.Parallel()
	var a answering
	env := a.env(t, http.StatusAccepted, `{"id":"b1"}`)
	path := filepath.Join(t.TempDir(), "jobs.CSV")
	if err := os.WriteFile(path, []byte("id,text\n1,a\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := run(t, env, "", "submit", "--template", "t", "--route", "r", path)
	if code != exitDone || out != "b1\n" || a.kind != "text/csv" || a.sent != "POST /v1/batches?kind=generate&route=r&template=t" || a.body != "id,text\n1,a\n" {
		t.Errorf("%d %q %q; sent %s %s %s", code, out, errs, a.kind, a.sent, a.body)
	}
}
