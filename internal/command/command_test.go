package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// serve returns the URL of a server that answers with h.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func reply(w http.ResponseWriter, status int, body string) {
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func refuse(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/problem+json")
	reply(w, status, body)
}

// server answers as a Batchwright whose every batch has two jobs and ends as it is told to, and keeps what it was sent.
type server struct {
	t     *testing.T
	end   string
	sent  string // method, path and query
	body  string
	calls int
}

func (s *server) env() map[string]string {
	return map[string]string{"BATCHWRIGHT_API_KEY": "bw_key", "BATCHWRIGHT_URL": serve(s.t, s.handle)}
}

const (
	endedWell  = `{"id":"b1","state":"completed","kind":"chat","total_jobs":2,"stats":{"jobs":{"succeeded":2},"calls":2,"cost_microusd":7}}`
	endedBadly = `{"id":"b1","state":"completed","kind":"chat","total_jobs":2,"stats":{"jobs":{"succeeded":1,"failed":1},"calls":2}}`
	stillOpen  = `{"id":"b1","state":"running","kind":"chat","total_jobs":2,"stats":{"jobs":{"succeeded":1}}}`
	results    = "{\"job_id\":\"b1-1\",  \"output\":\"<a>\"}\n{\"job_id\":\"b1-2\"}\n"
)

func (s *server) handle(w http.ResponseWriter, r *http.Request) {
	s.calls++
	switch {
	case r.Method == http.MethodPost:
		body, _ := io.ReadAll(r.Body)
		s.sent, s.body = r.Method+" "+r.URL.String(), string(body)
		switch r.URL.Path {
		case "/v1/batches":
			reply(w, http.StatusAccepted, `{"id":"b1","kind":"chat","state":"planning","total_jobs":2}`)
		case "/v1/batches/b1/cancel":
			reply(w, http.StatusOK, `{"state":"cancelled","total_jobs":2,"stats":{"jobs":{"succeeded":1,"cancelled":1},"cost_microusd":0}}`)
		case "/v1/batches/b1/pause":
			reply(w, http.StatusOK, `{"state":"paused","pause":{"reason":"requested"},"total_jobs":2,"stats":{"jobs":{"succeeded":1}}}`)
		case "/v1/batches/b1/resume":
			reply(w, http.StatusOK, `{"state":"planning","pause":{"reason":"budget","detail":"d"},"total_jobs":2,"stats":{}}`)
		case "/v1/batches/b1/retry":
			reply(w, http.StatusOK, `{"requeued":1,"excluded":2,"batch":{"state":"paused","pause":{"reason":"budget","detail":"day of p"},"total_jobs":2}}`)
		default:
			reply(w, http.StatusCreated, `{"ref":"saved@3"}`)
		}
	case strings.HasSuffix(r.URL.Path, "/results"):
		s.sent = r.Method + " " + r.URL.String()
		reply(w, http.StatusOK, results)
	default:
		reply(w, http.StatusOK, s.end)
	}
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWrongUsageIsOneLineAndExitCode2(t *testing.T) {
	t.Parallel()
	key := map[string]string{"BATCHWRIGHT_API_KEY": "bw_key"}
	for _, tt := range []struct {
		env  map[string]string
		args string
		want string
	}{
		{nil, "frobnicate", `unknown command "frobnicate" for "batchwright" (see batchwright --help)`},
		{nil, "key frobnicate", `unknown command "frobnicate" for "batchwright key" (see batchwright key --help)`},
		{nil, "--frobnicate", "unknown flag: --frobnicate (see batchwright --help)"},
		{nil, "version now", `unknown command "now" for "batchwright version" (see batchwright version --help)`},
		{nil, "key create", `required flag(s) "project" not set (see batchwright key create --help)`},
		{nil, "services", "requires at least 1 arg(s), only received 0 (see batchwright services --help)"},
		{nil, "watch b1", "BATCHWRIGHT_API_KEY is not set: batchwright dev prints a key, batchwright key create makes one (see batchwright watch --help)"},
		{key, "watch", "accepts 1 arg(s), received 0 (see batchwright watch --help)"},
		{map[string]string{"BATCHWRIGHT_API_KEY": "k", "BATCHWRIGHT_URL": "localhost:8080"}, "watch b1", `BATCHWRIGHT_URL: "localhost:8080" is no URL of an API: want one such as http://127.0.0.1:8080 (see batchwright watch --help)`},
		{key, "submit x.txt", `required flag(s) "route" not set (see batchwright submit --help)`},
		{key, "submit --route r x.ndjson", "--kind is required for NDJSON: summarize, generate, chat or pipeline (see batchwright submit --help)"},
		{key, "submit --route r x.NDJSON.zst", "--kind is required for NDJSON: summarize, generate, chat or pipeline (see batchwright submit --help)"},
		{nil, "project set", "accepts 1 arg(s), received 0 (see batchwright project set --help)"},
		{key, "submit --route r --kind chat x.ndjson y.txt", "one NDJSON or CSV file makes one batch: it can't come with other files (see batchwright submit --help)"},
		{key, "submit --route r --kind chat x.txt", "documents are for the kinds summarize and pipeline; jobs of kind chat come as NDJSON or CSV (see batchwright submit --help)"},
		{key, `submit --route r --params [] --length short x.txt`, "--params is not a JSON object (see batchwright submit --help)"},
		{key, `submit --route r --params {"length":"long"} --length short x.txt`, "--length is in --params as well (see batchwright submit --help)"},
		{key, "submit --route r", "name files or folders, a file of jobs, - for standard input, or a --source (see batchwright submit --help)"},
		{key, "submit --route r --source s3://a/ x.txt", "a batch with a source takes no files (see batchwright submit --help)"},
		{key, "submit --route r --source s3://a/ --source-query {}", "--source and --source-query are two sources: give one (see batchwright submit --help)"},
		{key, "submit --route r --source-query {", "--source-query is not JSON (see batchwright submit --help)"},
		{key, "submit --route r --params { x.txt", "--params is not JSON (see batchwright submit --help)"},
		{key, "route save nightly openai", `"openai" is not a step: want PROVIDER:MODEL (see batchwright route save --help)`},
		{key, "route save --accept primary r.json", "--accept goes with NAME CHAIN; in a file it is a field of spec (see batchwright route save --help)"},
		{nil, "demo --examples /nowhere", "--examples: no products.ndjson in /nowhere (see batchwright demo --help)"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			code, out, errs := run(t, tt.env, "", strings.Fields(tt.args)...)
			if code != exitUsage || out != "" || errs != "batchwright: "+tt.want+"\n" {
				t.Errorf("got %d, %q, %q", code, out, errs)
			}
		})
	}
}

func TestHelpNamesEveryCommand(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {"--help"}, {"help"}} {
		code, out, errs := run(t, nil, "", args...)
		if code != exitDone || errs != "" {
			t.Fatalf("got %d, %q", code, errs)
		}
		for name := range strings.FieldsSeq("demo dev submit watch results cancel template route api worker migrate key services healthcheck version") {
			if !strings.Contains(out, "\n  "+name+" ") {
				t.Errorf("%v: %s is missing", args, name)
			}
		}
	}
}

func TestSubmitPrintsTheID(t *testing.T) {
	t.Parallel()
	const jobs = "{\"custom_id\":\"1\"}\n{\"custom_id\":\"2\"}\n"
	path := file(t, "jobs.JSONL", jobs)
	for name, args := range map[string][]string{"from a file": {path}, "from standard input": {"-"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &server{t: t}
			code, out, errs := run(t, s.env(), jobs, append([]string{"submit", "--kind", "chat", "--route", "a:b", "--name", "n",
				"--on-invalid", "skip", "--cache", "off", "--params", `{"x":1}`, "--metadata", "team=shop,env=test"}, args...)...)
			if code != exitDone || out != "b1\n" || errs != "" || s.body != jobs {
				t.Errorf("got %d, %q, %q; the server got %q", code, out, errs, s.body)
			}
			want := "POST /v1/batches?cache=off&kind=chat&metadata=%7B%22env%22%3A%22test%22%2C%22team%22%3A%22shop%22%7D&name=n&on_invalid=skip&params=%7B%22x%22%3A1%7D&route=a%3Ab"
			if s.sent != want {
				t.Errorf("got %s", s.sent)
			}
		})
	}
}

func TestSubmitTakesTheFilesOfAFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{"b.txt", "a.md", ".hidden", "within/c.txt"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("text of "+name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &server{t: t}
	single := file(t, "single.html", "text of single")
	code, out, errs := run(t, s.env(), "", "submit", "--route", "local/extractive", single, dir)
	if code != exitDone || out != "b1\n" || errs != "" {
		t.Fatalf("got %d, %q, %q", code, out, errs)
	}
	at := -1
	for _, want := range []string{`{"kind":"summarize","route":"local/extractive"}`, "text of single", "text of a.md", "text of b.txt"} {
		i := strings.Index(s.body, want)
		if i <= at {
			t.Errorf("%q is at %d, the one before it at %d", want, i, at)
		}
		at = i
	}
	if strings.Contains(s.body, "hidden") || strings.Contains(s.body, "c.txt") {
		t.Error("a hidden or nested file was sent")
	}
	code, _, errs = run(t, s.env(), "", "submit", "--route", "r", filepath.Join(dir, "within", "..", "within"), t.TempDir())
	if code != exitFailed || !strings.HasPrefix(errs, "batchwright: there are no documents in ") {
		t.Errorf("got %d, %q", code, errs)
	}
}

func TestWaitAndWatchTellHowTheBatchEnded(t *testing.T) {
	t.Parallel()
	jobs := file(t, "jobs.ndjson", "{}")
	const well, badly = "completed: 2 of 2 jobs succeeded, 2 calls, 0 tokens in, 0 out, cost $0.000007\n",
		"completed: 1 of 2 jobs succeeded, 1 failed, 2 calls, 0 tokens in, 0 out, cost unknown\n"
	const complaint = "batchwright: batch b1 completed with 1 of 2 jobs succeeded; see batchwright results b1\n"
	for _, tt := range []struct {
		end, args, out, errs string
		code                 int
	}{
		{endedWell, "watch b1", "  chat  2/2 jobs  completed, 2 calls, $0.000007\n" + well, "", exitDone},
		{endedBadly, "watch b1", "  chat  2/2 jobs  completed, 2 calls, 1 failed\n" + badly, complaint, exitIncomplete},
		{endedWell, "submit --kind chat --route r --wait " + jobs, "b1\n", "  chat  2/2 jobs  completed, 2 calls, $0.000007\n" + well, exitDone},
		{endedBadly, "submit --kind chat --route r --wait " + jobs, "b1\n", "  chat  2/2 jobs  completed, 2 calls, 1 failed\n" + badly + complaint, exitIncomplete},
	} {
		s := &server{t: t, end: tt.end}
		code, out, errs := run(t, s.env(), "", strings.Fields(tt.args)...)
		if code != tt.code || out != tt.out || errs != tt.errs {
			t.Errorf("%s: got %d, %q, %q", tt.args, code, out, errs)
		}
	}
}

func TestCompressedLinesAreSentAsTheyAre(t *testing.T) {
	t.Parallel()
	for name, encoding := range map[string]string{"a.ndjson.gz": "gzip", "b.jsonl.zst": "zstd", "c.ndjson": ""} {
		sent := make(chan string, 1)
		env := map[string]string{"BATCHWRIGHT_API_KEY": "k", "BATCHWRIGHT_URL": serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			sent <- r.Header.Get("Content-Encoding") + " " + string(body)
			reply(w, http.StatusAccepted, `{"id":"b1"}`)
		})}
		if code, _, errs := run(t, env, "", "submit", "--kind", "chat", "--route", "r", file(t, name, "bytes")); code != exitDone {
			t.Fatalf("got %d, %q", code, errs)
		}
		if got := <-sent; got != encoding+" bytes" {
			t.Errorf("%s: sent %q", name, got)
		}
	}
}

func TestRefusalListsTheLines(t *testing.T) {
	t.Parallel()
	env := map[string]string{"BATCHWRIGHT_API_KEY": "k", "BATCHWRIGHT_URL": serve(t, func(w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusUnprocessableEntity, `{"detail":"1,203 of 5,000 jobs can't be run","error_count":1203,"errors":[
			{"line":3,"custom_id":"sku-3","field":"/variables/name","code":"missing","message":"is missing"},
			{"line":4,"code":"invalid_json","message":"invalid JSON\u001b[2J at byte 7"},
			{"field":"/route","code":"x","message":"is odd"}]}`)
	})}
	code, out, errs := run(t, env, "{}", "submit", "--kind", "chat", "--route", "r", "-")
	want := `batchwright: 1,203 of 5,000 jobs can't be run (HTTP 422)
  line 3 (sku-3), /variables/name: is missing
  line 4: invalid JSON[2J at byte 7
  /route: is odd
  and 1,200 more
`
	if code != exitRefused || out != "" || errs != want {
		t.Errorf("got %d, %q, %q", code, out, errs)
	}
}

func TestFailuresAreOneLine(t *testing.T) {
	t.Parallel()
	answering := func(status int, body string) string {
		return serve(t, func(w http.ResponseWriter, _ *http.Request) { refuse(w, status, body) })
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, tt := range []struct {
		name, url string
		code      int
		want      string
	}{
		{"wrong key", answering(401, `{"detail":"the API key is unknown or revoked"}`), exitRefused,
			"the API key is unknown or revoked; check BATCHWRIGHT_API_KEY (HTTP 401)"},
		{"unknown batch", answering(404, `{"detail":"there is no such thing in this project","errors":[{"field":"id","message":"x"}]}`), exitRefused,
			"there is no such thing in this project (HTTP 404)"},
		{"fault", answering(500, `{"detail":"something broke on our side","instance":"urn:batchwright:request:r1"}`), exitFailed,
			"something broke on our side (HTTP 500); urn:batchwright:request:r1"},
		{"no server", gone.URL, exitFailed,
			"can't reach " + gone.URL + ": connection refused; is the server up? (set BATCHWRIGHT_URL, or start one with batchwright dev)"},
		{"another server", serve(t, http.NotFound), exitRefused, "the answer doesn't come from Batchwright; is the URL right? (HTTP 404)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			code, out, errs := run(t, map[string]string{"BATCHWRIGHT_API_KEY": "k", "BATCHWRIGHT_URL": tt.url}, "", "cancel", "b1")
			if code != tt.code || out != "" || errs != "batchwright: "+tt.want+"\n" {
				t.Errorf("got %d, %q, %q", code, out, errs)
			}
		})
	}
}

func TestInterruptionIsTold(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		reply(w, http.StatusOK, stillOpen)
	})
	var out, errs strings.Builder
	env := map[string]string{"BATCHWRIGHT_API_KEY": "k", "BATCHWRIGHT_URL": url}
	code := Main(ctx, []string{"watch", "b1"}, func(name string) string { return env[name] }, strings.NewReader(""), &out, &errs)
	if code != exitInterrupted || errs.String() != "batchwright: interrupted\n" {
		t.Errorf("got %d, %q, %q", code, out.String(), errs.String())
	}
}

func TestResultsAreCopiedByteForByte(t *testing.T) {
	t.Parallel()
	s := &server{t: t, end: stillOpen}
	code, out, errs := run(t, s.env(), "", "results", "b1", "--status", "succeeded")
	if code != exitDone || out != results || errs != "The batch was still running: 1 of 2 jobs done.\n" || s.sent != "GET /v1/batches/b1/results?status=succeeded" {
		t.Errorf("got %d, %q, %q, %s", code, out, errs, s.sent)
	}
	s.end = endedWell
	path := filepath.Join(t.TempDir(), "out.ndjson")
	code, out, errs = run(t, s.env(), "", "results", "b1", "-o", path)
	got, err := os.ReadFile(path)
	if code != exitDone || out != "" || errs != "2 results written to "+path+"\n" || string(got) != results || err != nil {
		t.Errorf("got %d, %q, %q, %q, %v", code, out, errs, got, err)
	}
}

func TestResultsThatBreakOffLeaveTheOldFile(t *testing.T) {
	t.Parallel()
	env := map[string]string{"BATCHWRIGHT_API_KEY": "k", "BATCHWRIGHT_URL": serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/results") {
			reply(w, http.StatusOK, endedWell)
			return
		}
		_, _ = io.WriteString(w, results)
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})}
	path := file(t, "out.ndjson", "old")
	code, _, errs := run(t, env, "", "results", "b1", "-o", path)
	if code != exitFailed || !strings.HasPrefix(errs, "batchwright: the results broke off: ") {
		t.Errorf("got %d, %q", code, errs)
	}
	if got, err := os.ReadFile(path); string(got) != "old" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func TestCancelTellsWhatIsLeft(t *testing.T) {
	t.Parallel()
	s := &server{t: t}
	code, out, _ := run(t, s.env(), "", "cancel", "b1")
	if code != exitDone || out != "cancelled: 1 of 2 jobs succeeded, 1 cancelled, 0 calls, 0 tokens in, 0 out, cost $0\n" {
		t.Errorf("got %d, %q", code, out)
	}
}

func TestControlTellsHowTheBatchIs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ args, sent, body, out string }{
		{"cancel b1 --grace 3s", "/cancel?grace_seconds=3", "", "cancelled: 1 of 2 jobs succeeded, 1 cancelled, "},
		{"pause b1", "/pause", "", "paused: 1 of 2 jobs succeeded, "},
		{"resume b1", "/resume", "", "planning, then paused: 0 of 2 jobs succeeded, "},
		{"retry b1", "/retry", "{}", "1 job requeued, 2 with invalid input left out; paused for budget (day of p): 0 of 2 jobs succeeded, "},
		{"retry b1 --class timeout,server --status failed,cancelled --custom-id a", "/retry",
			`{"statuses":["failed","cancelled"],"error_classes":["timeout","server"],"custom_ids":["a"]}`, "1 job requeued, "},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			s := &server{t: t}
			code, out, errs := run(t, s.env(), "", strings.Fields(tt.args)...)
			if code != exitDone || !strings.HasPrefix(out, tt.out) || errs != "" || s.sent != "POST /v1/batches/b1"+tt.sent || s.body != tt.body {
				t.Errorf("got %d, %q, %q; the server got %s %s", code, out, errs, s.sent, s.body)
			}
		})
	}
}

func TestSavedDefinitionsPrintTheirReference(t *testing.T) {
	t.Parallel()
	template := file(t, "t.json", `{"name": "blurb", "spec": {"user": "Hi"}}`)
	for _, tt := range []struct{ args, path, body string }{
		{"template save " + template, "/v1/templates", `{"name":"blurb","spec":{"user":"Hi"}}`},
		{"template save -", "/v1/templates", `{"name":"stdin","spec":{}}`},
		{"route save " + template, "/v1/routes", `{"name":"blurb","spec":{"user":"Hi"}}`},
		{"route save nightly openai:gpt-5.2,local/extractive --accept primary", "/v1/routes",
			`{"name":"nightly","spec":{"steps":[{"provider":"openai","model":"gpt-5.2"},{"provider":"local","model":"extractive"}],"accept":"primary"}}`},
		{"route save or openrouter/meta/llama:free", "/v1/routes", `{"name":"or","spec":{"steps":[{"provider":"openrouter","model":"meta/llama:free"}]}}`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			t.Parallel()
			s := &server{t: t}
			code, out, errs := run(t, s.env(), `{"name":"stdin","spec":{}}`, strings.Fields(tt.args)...)
			if code != exitDone || out != "saved@3\n" || errs != "" || s.sent != "POST "+tt.path || s.body != tt.body {
				t.Errorf("got %d, %q, %q; the server got %s %s", code, out, errs, s.sent, s.body)
			}
		})
	}
}

func TestBadDefinitionFileIsNotSent(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		`{"name": "x", "spec": {}, "extra": 1}`: `want {"name": ..., "spec": ...}: json: unknown field "extra"`,
		`{"name": "x"}`:                         "name and spec must both be there",
		`[`:                                     `want {"name": ..., "spec": ...}: unexpected EOF`,
	} {
		s := &server{t: t}
		path := file(t, "t.json", content)
		code, out, errs := run(t, s.env(), "", "template", "save", path)
		if code != exitFailed || out != "" || errs != fmt.Sprintf("batchwright: %s: %s\n", path, want) || s.calls != 0 {
			t.Errorf("%s: got %d, %q, %q", content, code, out, errs)
		}
	}
}

func TestHealthcheck(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	if code, out, errs := run(t, nil, "", "healthcheck", url+"/readyz"); code != exitDone || out+errs != "" {
		t.Errorf("got %d, %q, %q", code, out, errs)
	}
	if code, _, errs := run(t, nil, "", "healthcheck", url+"/"); code != exitFailed || errs != "batchwright: "+url+"/: HTTP 503\n" {
		t.Errorf("got %d, %q", code, errs)
	}
}

func TestVersion(t *testing.T) {
	t.Parallel()
	code, out, _ := run(t, nil, "", "version")
	if code != exitDone || !strings.HasPrefix(out, "batchwright ") || strings.Count(out, "\n") != 1 {
		t.Errorf("got %d, %q", code, out)
	}
}

func TestMissingConfigurationIsOneLine(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"api", "worker", "migrate"} {
		code, out, errs := run(t, nil, "", name)
		if code != exitFailed || out != "" || !strings.HasPrefix(errs, "batchwright: DATABASE_URL: is not set") || strings.Count(errs, "\n") != 1 {
			t.Errorf("%s: got %d, %q, %q", name, code, out, errs)
		}
	}
}

func TestServicesReturnsTheCommandsExitCode(t *testing.T) {
	t.Parallel()
	env := map[string]string{"TEST_DATABASE_URL": "postgres://given", "TEST_REDIS_URL": "redis://given"}
	code, out, _ := run(t, env, "", "services", "sh", "-c", `echo "$DATABASE_URL $TEST_DATABASE_URL $REDIS_URL $TEST_REDIS_URL"; exit 7`)
	if code != 7 || out != "postgres://given postgres://given redis://given redis://given\n" {
		t.Errorf("got %d, %q", code, out)
	}
	code, _, errs := run(t, env, "", "services", "--", "/nowhere/no-such-command", "-x")
	if code != 127 || !strings.Contains(errs, "batchwright: services: ") {
		t.Errorf("got %d, %q", code, errs)
	}
}

func TestChainIsARouteSpec(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "openai", ":m", "p:", "a:b,", "a:b,,c:d"} {
		if spec, err := chain(text, ""); err == nil {
			t.Errorf("%q: got %s", text, spec)
		}
	}
	spec, err := chain(" a:b , c/d ", "")
	if err != nil || !json.Valid(spec) || string(spec) != `{"steps":[{"provider":"a","model":"b"},{"provider":"c","model":"d"}]}` {
		t.Errorf("got %s, %v", spec, err)
	}
}
