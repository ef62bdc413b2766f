package process_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"batchwright/internal/gateway/gatewaytest"
	"batchwright/internal/process"
	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

func TestSecondRunIsAnsweredFromTheCache(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	lines := products(300) + `{"custom_id":"twin","variables":{"name":"product 7"}}` + "\n"
	first := s.finish(t, accepted(t, s.generate(t, "", lines)).ID)
	if first.State != "completed" || first.Stats.Jobs.Succeeded != 301 || first.Stats.Cache.Miss != 300 || first.Stats.Cache.Coalesced != 1 ||
		first.Stats.Calls != 300 || first.Stats.CostMicrousd == 0 {
		t.Errorf("first run: %+v", first)
	}
	second := s.finish(t, accepted(t, s.generate(t, "", lines)).ID)
	if second.Stats.Jobs.Succeeded != 301 || second.Stats.Cache.ResultHit != 301 || second.Stats.Calls != 0 || second.Stats.CostMicrousd != 0 {
		t.Errorf("second run: %+v", second)
	}
	a, b := s.results(t, first.ID), s.results(t, second.ID)
	if len(a) != 301 || len(b) != 301 {
		t.Fatalf("results: %d and %d lines", len(a), len(b))
	}
	for i := range a {
		if a[i].CustomID != b[i].CustomID || !bytes.Equal(a[i].Output, b[i].Output) || len(a[i].Output) < 10 || a[i].Index != i+1 {
			t.Fatalf("line %d: %+v and %+v", i+1, a[i], b[i])
		}
	}
	refreshed := s.finish(t, accepted(t, s.generate(t, "&cache=refresh", lines)).ID)
	if refreshed.Stats.Cache.Bypass != 300 || refreshed.Stats.Cache.Coalesced != 1 || refreshed.Stats.Calls != 300 {
		t.Errorf("refresh: %+v", refreshed)
	}
	if again := s.results(t, first.ID); !bytes.Equal(again[0].Output, a[0].Output) {
		t.Error("a refresh changed the results of an older batch")
	}
	off := s.finish(t, accepted(t, s.generate(t, "&cache=off", lines)).ID)
	if off.Stats.Cache.Bypass != 301 || off.Stats.Calls != 301 {
		t.Errorf("off: %+v", off)
	}
}

func TestSummariesOfUploadedDocuments(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	spec, err := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="batch"`}, "Content-Type": {"application/json"}})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(spec, `{"kind":"summarize","name":"docs","route":"local/extractive","params":{"length":"short","chunk_tokens":400}}`)
	files, err := filepath.Glob("../../examples/documents/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no example documents: %v", err)
	}
	for _, f := range files {
		part, err := w.CreateFormFile("documents", filepath.Base(f))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = part.Write(b)
	}
	_ = w.Close()
	payload := body.String()
	submit := func() reply {
		return s.do(t, http.MethodPost, "/v1/batches", w.FormDataContentType(), strings.NewReader(payload))
	}
	first := s.finish(t, accepted(t, submit()).ID)
	if first.Stats.Jobs.Succeeded != int64(len(files)) || first.Stats.Calls <= int64(len(files)) {
		t.Errorf("first run: %+v", first)
	}
	seen := map[string]string{}
	for _, r := range s.results(t, first.ID) {
		if r.Status != "succeeded" || r.Provider != "local" || len(r.Output) < 40 {
			t.Errorf("%+v", r)
		}
		if other := seen[string(r.Output)]; other != "" {
			t.Errorf("%s and %s have the same summary", other, r.CustomID)
		}
		seen[string(r.Output)] = r.CustomID
	}
	if second := s.finish(t, accepted(t, submit()).ID); second.Stats.Cache.ResultHit != int64(len(files)) || second.Stats.Calls != 0 {
		t.Errorf("second run: %+v", second)
	}
}

func TestChatBodyTravelsByteForByte(t *testing.T) {
	t.Parallel()
	got := make(chan string, 1)
	backend := httpServer(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- string(b)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"model":"m-1","choices":[{"message":{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}`)
	})
	s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": backend + "/v1"})
	body := `{"messages" : [ {"content":"é <b> \u00e9 \/","role":"user"} ],   "model":"m", "temperature":0.10 ,"x_custom":{"b":1,"a":2}}`
	b := s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"chat","route":"openai-compatible","jobs":[{"custom_id":"c","body":`+body+`}]}`)).ID)
	if b.Stats.Jobs.Succeeded != 1 {
		t.Fatalf("%+v %+v", b, s.results(t, b.ID))
	}
	if sent := <-got; sent != body {
		t.Errorf("sent\n%s\nwant\n%s", sent, body)
	}
}

func TestFallbackIsRecordedAndCachedUnderTheModelAsked(t *testing.T) {
	t.Parallel()
	backend := httpServer(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) })
	s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": backend, "OPENAI_COMPATIBLE_API_KEY": "sk-secret"})
	s.saveTemplate(t, blurb)
	submit := func(accept string) batch {
		return s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"generate","template":"blurb@1","route":{"accept":"`+accept+`","steps":[
			{"provider":"openai-compatible","model":"big"},{"provider":"simulator","model":"sim-1"}]},"jobs":[{"variables":{"name":"x"}}]}`)).ID)
	}
	first := submit("any")
	if r := s.results(t, first.ID); first.Stats.Jobs.Succeeded != 1 || r[0].Provider != "simulator" || first.Stats.Calls != 2 {
		t.Fatalf("%+v %+v", first, r)
	}
	var job struct {
		Calls []struct {
			Provider   string `json:"provider"`
			ErrorClass string `json:"error_class"`
		} `json:"calls"`
	}
	r := s.do(t, http.MethodGet, "/v1/jobs/"+first.ID+"-1", "", nil)
	r.json(t, &job)
	if len(job.Calls) != 2 || job.Calls[0].ErrorClass != "auth" || bytes.Contains(r.body, []byte("sk-secret")) {
		t.Errorf("%s", r.body)
	}
	if hit := submit("any"); hit.Stats.Cache.ResultHit != 1 {
		t.Errorf("a fallback's answer was not accepted: %+v", hit)
	}
	if again := submit("primary"); again.Stats.Cache.ResultHit != 0 || again.Stats.Calls != 1 {
		t.Errorf("accept primary took a fallback's answer, or asked with a key that was refused: %+v", again)
	}
}

func TestAnotherProjectSeesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	id := s.finish(t, accepted(t, s.generate(t, "", products(2))).ID).ID
	other := &system{url: s.url, env: s.env, key: s.newKey(t, "other")}
	for _, path := range []string{"/v1/batches/" + id, "/v1/batches/" + id + "/jobs", "/v1/batches/" + id + "/results", "/v1/jobs/" + id + "-1", "/v1/templates/blurb"} {
		if r := other.do(t, http.MethodGet, path, "", nil); r.status != http.StatusNotFound {
			t.Errorf("%s: status %d", path, r.status)
		}
	}
	if r := other.post(t, "/v1/batches/"+id+"/cancel", ""); r.status != http.StatusNotFound {
		t.Errorf("cancel: status %d", r.status)
	}
	nobody := &system{url: s.url, key: "bw_nope"}
	if r := nobody.do(t, http.MethodGet, "/v1/batches", "", nil); r.status != http.StatusUnauthorized {
		t.Errorf("wrong key: status %d", r.status)
	}
}

func TestBadInputIsRefusedWholeOrSkipped(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	lines := `{"custom_id":"a","variables":{"name":"one"}}` + "\n\n" + `{"custom_id":"b","variables":{}}` + "\n" + `not json` + "\n" +
		`{"custom_id":"a","variables":{"name":"two"}}` + "\n" + "{\"custom_id\":\"c\",\"variables\":{\"name\":\"\xff\"}}\n"
	var problem struct {
		Errors []struct {
			Line    int    `json:"line"`
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	r := s.generate(t, "", lines)
	r.json(t, &problem)
	if r.status != http.StatusUnprocessableEntity || len(problem.Errors) != 3 || problem.Errors[0].Line != 3 || problem.Errors[1].Line != 4 || problem.Errors[2].Line != 6 {
		t.Errorf("status %d: %s", r.status, r.body)
	}
	dup := s.generate(t, "", products(3)+"\n"+`{"custom_id":"p-1","variables":{"name":"again"}}`+"\n")
	dup.json(t, &problem)
	if dup.status != http.StatusUnprocessableEntity || len(problem.Errors) != 1 || problem.Errors[0].Line != 5 || !strings.Contains(problem.Errors[0].Message, "line 2") {
		t.Errorf("status %d: %s", dup.status, dup.body)
	}
	var list struct {
		Data []batch `json:"data"`
	}
	s.do(t, http.MethodGet, "/v1/batches", "", nil).json(t, &list)
	if len(list.Data) != 0 {
		t.Errorf("a refused submission left %d batches", len(list.Data))
	}
	b := s.finish(t, accepted(t, s.generate(t, "&on_invalid=skip", lines)).ID)
	if b.Total != 5 || b.Stats.Jobs.Succeeded != 1 || b.Stats.Jobs.Failed != 4 || b.Stats.Calls != 1 {
		t.Errorf("%+v", b)
	}
	for _, r := range s.results(t, b.ID)[1:] {
		if r.Status != "failed" || r.Error.Class != "invalid_request" || r.Error.Message == "" {
			t.Errorf("%+v", r)
		}
	}
	for name, path := range map[string]string{
		"template": "kind=generate&template=nope&route=simulator/sim-1", "route": "kind=generate&template=blurb&route=nope",
		"provider": "kind=generate&template=blurb&route=acme/x", "model": "kind=generate&template=blurb&route=local/nope", "kind": "kind=dance&route=simulator/sim-1",
	} {
		r := s.do(t, http.MethodPost, "/v1/batches?"+path, "application/x-ndjson", strings.NewReader(products(1)))
		if r.status != http.StatusBadRequest || !strings.HasPrefix(r.header.Get("Content-Type"), "application/problem+json") || !bytes.Contains(r.body, []byte(name[:4])) {
			t.Errorf("%s: status %d: %s", name, r.status, r.body)
		}
	}
}

func TestIdempotencyKey(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	first := accepted(t, s.generate(t, "", products(5), "Idempotency-Key", "k1"))
	r := s.generate(t, "", products(5), "Idempotency-Key", "k1")
	if again := accepted(t, r); again.ID != first.ID || r.header.Get("Idempotency-Replayed") != "true" {
		t.Errorf("the same key and body made %s, want %s", again.ID, first.ID)
	}
	if r := s.generate(t, "", products(6), "Idempotency-Key", "k1"); r.status != http.StatusConflict {
		t.Errorf("another body: status %d: %s", r.status, r.body)
	}
	// Many at once: one batch, whoever is first. The others are told to wait, or get it when it is there.
	replies := make(chan reply, 8)
	for range 8 {
		go func() { replies <- s.generate(t, "", products(50), "Idempotency-Key", "k2") }()
	}
	one := ""
	for range 8 {
		r := <-replies
		if r.status == http.StatusConflict && strings.Contains(string(r.body), "being uploaded") {
			continue
		}
		if id := accepted(t, r).ID; one != "" && id != one {
			t.Errorf("two batches for one key: %s and %s", one, id)
		} else {
			one = id
		}
	}
	if last := accepted(t, s.generate(t, "", products(50), "Idempotency-Key", "k2")).ID; last != one {
		t.Errorf("two batches for one key: %s and %s", one, last)
	}
}

func TestRefusalDoesNotWaitForTheBody(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	tr := &http.Transport{ExpectContinueTimeout: 30 * time.Second}
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+"/v1/batches?kind=generate&template=unknown&route=simulator:sim-1", linesOf(100))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = http.Header{"Authorization": {"Bearer " + s.key}, "Content-Type": {"application/x-ndjson"}, "Expect": {"100-continue"}}
	res, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatalf("no refusal within 10 s: %v", err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusBadRequest {
		t.Errorf("status %d, want 400", res.StatusCode)
	}
}

func TestCancelKeepsFinishedWork(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_LATENCY": "100ms", "WORKER_CONCURRENCY": "4", "WORKER_LEASE": "3s"})
	s.saveTemplate(t, blurb)
	id := accepted(t, s.generate(t, "", products(400))).ID
	await(t, "some jobs to succeed", func() bool { return s.batch(t, id).Stats.Jobs.Succeeded >= 4 })
	if r := s.post(t, "/v1/batches/"+id+"/cancel", ""); r.status != http.StatusOK {
		t.Fatalf("cancel: status %d: %s", r.status, r.body)
	}
	b := s.finish(t, id)
	if b.State != "cancelled" || b.Stats.Jobs.Succeeded < 4 || b.Stats.Jobs.Cancelled == 0 || b.Stats.Jobs.Succeeded+b.Stats.Jobs.Cancelled != 400 || b.Stats.Calls != b.Stats.Jobs.Succeeded {
		t.Errorf("%+v", b)
	}
	if r := s.post(t, "/v1/batches/"+id+"/cancel", ""); r.status != http.StatusOK {
		t.Errorf("second cancel: status %d", r.status)
	}
}

func TestStoppingInOrderLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_LATENCY": "20ms", "WORKER_CONCURRENCY": "8"})
	s.saveTemplate(t, blurb)
	id := accepted(t, s.generate(t, "", products(500))).ID
	for done := int64(0); done < 500; {
		stop := s.run(t, process.Worker)
		before := done
		await(t, "progress", func() bool { done = s.batch(t, id).Stats.Jobs.Succeeded; return done >= before+60 || done == 500 })
		stop()
	}
	b := s.finish(t, id)
	if b.Stats.Jobs.Succeeded != 500 || b.Stats.Calls != 500 {
		t.Errorf("%+v: want 500 jobs with one call each", b)
	}
	if n := storetest.Scalar[int64](t, s.env["DATABASE_URL"], `select count(*) from calls where state <> 'settled'`); n != 0 {
		t.Errorf("%d calls without an outcome", n)
	}
}

func TestConfigurationProblemsAreReportedTogether(t *testing.T) {
	t.Parallel()
	_, err := process.Configure(func(name string) string {
		return map[string]string{"WORKER_CONCURRENCY": "many", "LOG_LEVEL": "loud", "CLOUDFLARE_GATEWAY_ID": "a", "OPENAI_BASE_URL": "nope",
			"PROVIDER_LIMITS": "openai=many", "EXPORT_TARGETS": "s3://key:secret@bucket/", "ANTHROPIC_API_KEYS": "sk-secret*0"}[name]
	})
	for _, want := range []string{"DATABASE_URL", "REDIS_URL", "WORKER_CONCURRENCY", "LOG_LEVEL", "CLOUDFLARE_GATEWAY_ID", "OPENAI_BASE_URL", "PROVIDER_LIMITS", "ANTHROPIC_API_KEYS", "EXPORT_TARGETS"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing from: %v", want, err)
		}
	}
}

func TestBranchesOfARouteAreStableAcrossRuns(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	s.saveTemplate(t, blurb)
	const route = `{"steps":[{"provider":"simulator","model":"canary","percent":25},{"provider":"simulator","model":"short","when":{"max_input_tokens":5}},
		{"provider":"simulator","model":"paid","when":{"metadata":{"plan":"paid"}}},{"provider":"simulator","model":"left","weight":1},{"provider":"simulator","model":"right","weight":1}]}`
	submit := func(cache, plan string) map[string]string {
		var jobs []string
		for i := range 200 {
			jobs = append(jobs, fmt.Sprintf(`{"custom_id":"p-%d","variables":{"name":"product %d"}}`, i, i))
		}
		b := s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"generate","template":"blurb","cache":"`+cache+`","metadata":{"plan":"`+plan+`"},"route":`+route+`,
			"jobs":[`+strings.Join(jobs, ",")+`]}`)).ID)
		models := map[string]string{}
		for _, r := range s.results(t, b.ID) {
			models[r.CustomID] = r.Model
		}
		if cache == "use" && b.Stats.Cache.ResultHit != 200 {
			t.Errorf("a rerun took another branch: %+v", b.Stats.Cache)
		}
		return models
	}
	first := submit("refresh", "free")
	count := map[string]int{}
	for _, m := range first {
		count[m]++
	}
	if count["canary"] < 25 || count["canary"] > 80 || count["left"] < 40 || count["right"] < 40 || count["short"]+count["paid"] != 0 {
		t.Errorf("shares %v", count)
	}
	for _, cache := range []string{"off", "use"} {
		if again := submit(cache, "free"); !maps.Equal(first, again) {
			t.Errorf("with cache %s: %v, before %v", cache, again, first)
		}
	}
	steps := storetest.Scalar[int64](t, s.env["DATABASE_URL"], `select count(*) from calls where (model = 'canary') <> (step = 0) or (model = 'right') <> (step = 4)`)
	if steps != 0 {
		t.Errorf("%d calls name a step that isn't the route's", steps)
	}
	paid := map[string]int{}
	for _, m := range submit("refresh", "paid") {
		paid[m]++
	}
	if paid["paid"]+paid["canary"] != 200 {
		t.Errorf("with the metadata that a step wants: %v", paid)
	}
}

func TestReadyNamesWhatIsDown(t *testing.T) {
	t.Parallel()
	s := start(t, nil)
	storetest.Exec(t, s.env["DATABASE_URL"], `update goose_db_version set is_applied = false where version_id = $1`, must(store.WantMigration()))
	r := s.do(t, http.MethodGet, "/readyz", "", nil)
	if r.status != http.StatusServiceUnavailable || !bytes.Contains(r.body, []byte("migration")) {
		t.Errorf("status %d: %s", r.status, r.body)
	}
}

func TestRemoteGatewayRunsTheChain(t *testing.T) {
	t.Parallel()
	hit := gatewaytest.Text("from the gateway's cache")
	hit.Header = http.Header{"Cf-Aig-Cache-Status": {"HIT"}}
	remote := &gatewaytest.Universal{Token: "tok", Keys: map[string]string{"openai": "stored", "custom-x": "stored"},
		Script: gatewaytest.NewScript(map[string][]gatewaytest.Answer{
			"openai":   {{Status: http.StatusUnauthorized, Body: `{}`}},
			"custom-x": {gatewaytest.Text("from custom-x"), hit, {Status: http.StatusUnauthorized, Body: `{}`}},
		})}
	s := start(t, map[string]string{"GATEWAY_URL": httpServer(t, remote.ServeHTTP) + "/v1/acc/gw", "GATEWAY_TOKEN": "tok"})
	s.saveTemplate(t, blurb)
	submit := func(name string) (batch, resultLine) {
		b := s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"generate","template":"blurb","route":"openai:gpt-4.1-mini,custom-x:m,local/extractive",
			"jobs":[{"variables":{"name":"`+name+`"}}]}`)).ID)
		return b, s.results(t, b.ID)[0]
	}
	if b, r := submit("one"); r.Provider != "custom-x" || r.CacheStatus != "miss" || b.Stats.Calls != 1 {
		t.Errorf("second step: %+v %+v", b, r)
	}
	if b, r := submit("two"); r.CacheStatus != "gateway_hit" || b.Stats.Cache.GatewayHit != 1 || b.Stats.CostMicrousd != 0 {
		t.Errorf("gateway's cache: %+v %+v", b, r)
	}
	if _, r := submit("three. A second sentence about three. And one more about it, so that there is a choice."); r.Provider != "local" {
		t.Errorf("after both remote steps failed: %+v", r)
	}
	if p := remote.Problems(); len(p) > 0 {
		t.Errorf("against the protocol: %v", p)
	}
	if h, _ := remote.Last(); !strings.Contains(h.Get("Cf-Aig-Metadata"), `"job"`) || h.Get("Cf-Aig-Event-Id") == "" {
		t.Errorf("the gateway's log can't be joined to the job: %v", h)
	}
}

func TestDocumentsAndBodiesThatCannotBeRun(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"MAX_BODY_BYTES": "4000", "MAX_LINE_BYTES": "1100"})
	for want, doc := range map[string]string{"empty": "", "unsupported": "GIF89a\x00\x01\xff\xfe\x00\x02", "encrypted": "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1E\x00n\x00c\x00r\x00y\x00p\x00t\x00e\x00d\x00P\x00a\x00c\x00k\x00a\x00g\x00e\x00"} {
		r := s.do(t, http.MethodPost, "/v1/batches", "multipart/form-data; boundary=x", strings.NewReader("--x\r\nContent-Disposition: form-data; name=\"batch\"\r\n\r\n"+
			`{"kind":"summarize","route":"local/extractive"}`+"\r\n--x\r\nContent-Disposition: form-data; name=\"documents\"; filename=\"a.txt\"\r\n\r\n"+doc+"\r\n--x--\r\n"))
		if r.status != http.StatusUnprocessableEntity || !bytes.Contains(r.body, []byte(`"code":"`+want+`"`)) || !bytes.Contains(r.body, []byte("a.txt")) {
			t.Errorf("%s: status %d: %s", want, r.status, r.body)
		}
	}
	s.saveTemplate(t, blurb)
	long := `{"variables":{"name":"` + strings.Repeat("x", 1200) + `"}}` + "\n"
	if r := s.generate(t, "", long); r.status != http.StatusUnprocessableEntity && r.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a line over the limit: status %d: %s", r.status, r.body)
	}
	if r := s.generate(t, "", products(200)); r.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a body over the limit: status %d: %s", r.status, r.body)
	}
	if n := storetest.Scalar[int64](t, s.env["DATABASE_URL"], `select (select count(*) from batches) + (select count(*) from inputs) + (select count(*) from documents)`); n != 0 {
		t.Errorf("refused submissions left %d rows", n)
	}
}

func TestSimulatedAnswersAreNoAnswersOfTheModelTheyName(t *testing.T) {
	t.Parallel()
	backend := httpServer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"model":"m","choices":[{"message":{"content":"real"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":2}}`)
	})
	s := start(t, map[string]string{"OPENAI_COMPATIBLE_BASE_URL": backend + "/v1"})
	submit := func(route, body string) batch {
		return s.finish(t, accepted(t, s.post(t, "/v1/batches", `{"kind":"chat","route":"`+route+`","jobs":[{"body":`+body+`}]}`)).ID)
	}
	body := `{"model":"m","messages":[{"role":"user","content":"hello"}]}`
	submit("simulator", body)
	if b := submit("openai-compatible", body); b.Stats.Cache.ResultHit != 0 || string(s.results(t, b.ID)[0].Output) != `"real"` {
		t.Errorf("%+v %s", b, s.results(t, b.ID)[0].Output)
	}
	for _, route := range []string{"simulator", "openai-compatible"} {
		if b := submit(route, body); b.Stats.Cache.ResultHit != 1 {
			t.Errorf("%s again: %+v", route, b)
		}
	}
	two := `{"model":"m","MODEL":"n","messages":[{"role":"user","content":"hello"}]}`
	if r := s.post(t, "/v1/batches", `{"kind":"chat","route":"simulator","jobs":[{"body":`+two+`}]}`); r.status != http.StatusUnprocessableEntity {
		t.Errorf("two spellings of model: status %d: %s", r.status, r.body)
	}
}
