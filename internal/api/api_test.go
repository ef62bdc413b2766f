package api_test

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"batchwright/internal/api"
	"batchwright/internal/jobs"
)

var (
	jsonType   = map[string]string{"Content-Type": "application/json"}
	ndjsonType = map[string]string{"Content-Type": "application/x-ndjson"}
)

const chat = `"kind":"chat","route":"simulator:m"`

func TestRefusals(t *testing.T) {
	t.Parallel()
	a := newAPI(t, &fake{}, func(s *api.Server) { s.MaxBody, s.MaxLine = 1000, 100 })
	post := func(body string) call { return call{method: "POST", header: jsonType, body: body} }
	stream := func(query, body string) call {
		return call{method: "POST", path: "/v1/batches?kind=chat&route=simulator:m" + query, header: ndjsonType, body: body}
	}
	multi := func(body string) call {
		return call{method: "POST", header: map[string]string{"Content-Type": "multipart/form-data; boundary=x"}, body: strings.ReplaceAll(body, "\n", "\r\n")}
	}
	with := func(c call, name, value string) call {
		h := map[string]string{name: value}
		for k, v := range c.header {
			if k != name {
				h[k] = v
			}
		}
		c.header = h
		return c
	}
	const opts = "--x\nContent-Disposition: form-data; name=\"batch\"\n\n{" + chat + "}\n"
	for name, tc := range map[string]struct {
		call   call
		status int
		fields []string // of errors: field, or #line
		detail string   // part of it
	}{
		"no key":                {call{anonymous: true}, 401, nil, "Authorization"},
		"key of another scheme": {with(call{}, "Authorization", "Basic c2VjcmV0"), 401, nil, "Bearer"},
		"key without prefix":    {with(call{}, "Authorization", "Bearer sk-s3cret"), 401, nil, "bw_"},
		"unknown key":           {with(call{}, "Authorization", "Bearer bw_s3cret"), 401, nil, "unknown"},
		"huge key":              {with(call{}, "Authorization", "Bearer bw_"+strings.Repeat("s3cret", 1000)), 401, nil, "not an API key"},
		"unknown path":          {call{path: "/v2/batches"}, 404, nil, "openapi.json"},
		"path that goes deeper": {call{path: "/v1/batches/x/y"}, 404, nil, "nothing"},
		"escaped slash":         {call{path: "/v1%2Fbatches%2Fx%2Fy"}, 404, nil, "nothing"},
		"wrong method":          {call{method: "DELETE"}, 405, nil, "GET and POST"},
		"wrong method below":    {call{method: "PUT", path: "/v1/batches/x"}, 405, nil, "GET"},
		"unknown query":         {call{path: "/v1/batches?limt=3"}, 400, []string{"limt"}, "no such query"},
		"repeated query":        {call{path: "/v1/batches?limit=3&limit=4"}, 400, []string{"limit"}, "once"},
		"malformed query":       {call{path: "/v1/batches?limit=%zz"}, 400, nil, "query string"},
		"limit not a number":    {call{path: "/v1/batches?limit=s3cret"}, 400, []string{"limit"}, "integer"},
		"limit too high":        {call{path: "/v1/batches?limit=201"}, 400, []string{"limit"}, "at most 200"},
		"limit zero":            {call{path: "/v1/batches?limit=0"}, 400, []string{"limit"}, "at least 1"},
		"empty value":           {call{path: "/v1/batches?state="}, 400, []string{"state"}, ""},
		"unknown state":         {call{path: "/v1/batches?state=s3cret"}, 400, []string{"state"}, "planning"},
		"cursor not ours":       {call{path: "/v1/batches?cursor=s3cret!"}, 400, []string{"cursor"}, "next_cursor"},
		"cursor of another":     {call{path: "/v1/batches?cursor=MTI"}, 400, []string{"cursor"}, "next_cursor"},
		"batch id not a UUID":   {call{path: "/v1/batches/1"}, 404, nil, "UUID"},
		"batch id in braces":    {call{path: "/v1/batches/%7B01990000-0000-7000-8000-00000000000b%7D"}, 404, nil, "UUID"},
		"batch unknown":         {call{path: "/v1/batches/01990000-0000-7000-8000-00000000000b"}, 404, nil, "no such thing"},
		"job id malformed":      {call{path: "/v1/jobs/01990000-0000-7000-8000-00000000000b"}, 404, nil, "job id"},
		"job index too large":   {call{path: "/v1/jobs/01990000-0000-7000-8000-00000000000b-99999999999"}, 404, nil, "job id"},
		"job index zero":        {call{path: "/v1/jobs/01990000-0000-7000-8000-00000000000b-0"}, 404, nil, "job id"},
		"template version 0":    {call{path: "/v1/templates/a?version=0"}, 400, []string{"version"}, "at least 1"},
		"no content type":       {call{method: "POST", body: "{}"}, 415, nil, "application/x-ndjson"},
		"wrong content type":    {with(post("{}"), "Content-Type", "text/plain"), 415, nil, "application/json or"},
		"malformed type":        {with(post("{}"), "Content-Type", "application/json; ="), 415, nil, "Content-Type"},
		"only JSON templates":   {call{method: "POST", path: "/v1/templates", header: ndjsonType, body: "{}"}, 415, nil, "must be application/json"},
		"wrong encoding":        {with(post("{}"), "Content-Encoding", "br"), 415, nil, "gzip"},
		"not gzip":              {with(post("{}"), "Content-Encoding", "gzip"), 400, nil, "broke off"},
		"not gzip either":       {with(post("{"+chat+`,"jobs":[]}`), "Content-Encoding", "gzip"), 400, nil, "valid gzip"},
		"JSON too large":        {post("{" + strings.Repeat(" ", 1000) + "}"), 413, nil, "1000 bytes"},
		"stream too large":      {stream("", strings.Repeat("{}\n", 400)), 413, nil, "1000 bytes"},
		"empty body":            {post(""), 400, []string{"#1"}, "not valid JSON"},
		"bad JSON":              {post("{\n \"kind\": s3cret }"), 400, []string{"#2"}, "line 2, column 10"},
		"two values":            {post("{" + chat + `,"jobs":[]} {}`), 400, []string{"#1"}, "not valid JSON"},
		"invalid UTF-8":         {post("{\"kind\":\"\xff\"}"), 400, nil, "UTF-8"},
		"not an object":         {post("[]"), 400, []string{""}, "JSON object"},
		"null":                  {post("null"), 400, []string{""}, "JSON object"},
		"unknown field":         {post("{" + chat + `,"jobs":[],"temprature":1}`), 400, []string{"/temprature"}, "no such field"},
		"field in wrong case":   {post("{" + chat + `,"Jobs":[],"jobs":[]}`), 400, []string{"/Jobs"}, "no such field"},
		"missing fields":        {post(`{"jobs":[]}`), 400, []string{"/kind", "/route"}, "1 more"},
		"no jobs":               {post("{" + chat + "}"), 400, []string{"/jobs"}, "required"},
		"jobs not an array":     {post("{" + chat + `,"jobs":{}}`), 400, []string{"/jobs"}, "array"},
		"kind unknown":          {post(`{"kind":"s3cret","route":"a","jobs":[]}`), 400, []string{"/kind"}, "summarize"},
		"kind of wrong type":    {post(`{"kind":1,"route":"a","jobs":[]}`), 400, []string{"/kind"}, "allowed values"},
		"name null":             {post("{" + chat + `,"name":null,"jobs":[]}`), 400, []string{"/name"}, "null"},
		"template malformed":    {post("{" + chat + `,"template":"s3cret@x","jobs":[]}`), 400, []string{"/template"}, "match"},
		"route of wrong type":   {post(`{"kind":"chat","route":7,"jobs":[]}`), 400, []string{"/route"}, "string or object"},
		"route step unknown":    {post(`{"kind":"chat","route":{"steps":[{"provider":"p","model":"m","tries":1}]},"jobs":[]}`), 400, []string{"/route/steps/0/tries"}, "no such field"},
		"route without steps":   {post(`{"kind":"chat","route":{"steps":[]},"jobs":[]}`), 400, []string{"/route/steps"}, "minimum"},
		"label not a string":    {post("{" + chat + `,"metadata":{"a/b":1},"jobs":[]}`), 400, []string{"/metadata/a~1b"}, "string"},
		"options in the query":  {with(call{method: "POST", path: "/v1/batches?cache=off", body: "{" + chat + `,"jobs":[]}`}, "Content-Type", "application/json"), 400, nil, "query"},
		"empty idempotency key": {with(post("{"+chat+`,"jobs":[]}`), "Idempotency-Key", ""), 400, []string{"Idempotency-Key"}, ""},
		"long idempotency key":  {with(post("{"+chat+`,"jobs":[]}`), "Idempotency-Key", strings.Repeat("k", 256)), 400, []string{"Idempotency-Key"}, "255"},
		"odd idempotency key":   {with(post("{"+chat+`,"jobs":[]}`), "Idempotency-Key", "a b"), 400, []string{"Idempotency-Key"}, "match"},
		"stream without kind":   {call{method: "POST", path: "/v1/batches?route=a", header: ndjsonType, body: "{}"}, 400, []string{"/kind"}, "required"},
		"stream, bad params":    {stream("&params={s3cret}", "{}"), 400, []string{"params"}, "must be JSON"},
		"stream, odd params":    {stream("&params=[1]", "{}"), 400, []string{"/params"}, "object"},
		"stream, bad labels":    {stream("&metadata="+`{"a":1}`, "{}"), 400, []string{"/metadata/a"}, "string"},
		"stream, bad lines":     {stream("", "{}\n\n{s3cret\n\xff\n"+strings.Repeat("x", 101)+"\n{}"), 422, []string{"#3", "#4", "#5"}, "some lines"},
		"multipart, no bound":   {with(multi(""), "Content-Type", "multipart/form-data"), 400, nil, "boundary"},
		"multipart, empty":      {multi("--x--\n"), 400, nil, "first part"},
		"multipart, nothing":    {multi(""), 400, nil, "multipart"},
		"multipart, order":      {multi("--x\nContent-Disposition: form-data; name=\"documents\"; filename=\"a\"\n\nhi\n" + opts + "--x--\n"), 400, nil, "first part"},
		"multipart, stray part": {multi(opts + "--x\nContent-Disposition: form-data; name=\"document\"; filename=\"a\"\n\nhi\n--x--\n"), 400, nil, `"document"`},
		"multipart, two batch":  {multi(opts + opts + "--x--\n"), 400, nil, "one part"},
		"multipart, cut":        {multi(opts + "--x\nContent-Disposition: form-data; name=\"documents\"; filename=\"a\"\n\nhi"), 400, nil, "broke off"},
		"multipart, cut after":  {multi(opts), 400, nil, "broke off"},
		"multipart, long file":  {multi(opts + "--x\nContent-Disposition: form-data; name=\"documents\"; filename=\"a\"\n\n" + strings.Repeat("d", 101) + "\n--x--\n"), 422, []string{"#1"}, "some lines"},
		"multipart, file name":  {multi(opts + "--x\nContent-Disposition: form-data; name=\"documents\"; filename=\"\xff\"\n\nd\n--x--\n"), 422, []string{"#1"}, "some lines"},
		"multipart, options":    {multi("--x\nContent-Disposition: form-data; name=\"batch\"\n\n{" + chat + ",\"jobs\":[]}\n--x--\n"), 400, []string{"/jobs"}, "no such field"},
		"template, name":        {call{method: "POST", path: "/v1/templates", header: jsonType, body: `{"name":"S3CRET","spec":{"user":"u"}}`}, 400, []string{"/name"}, "match"},
		"template, wrong type":  {call{method: "POST", path: "/v1/templates", header: jsonType, body: `{"name":"a","spec":{"user":"u","sampling":{"temperature":"s3cret"}}}`}, 400, []string{"/spec/sampling/temperature"}, "number"},
		"template, no spec":     {call{method: "POST", path: "/v1/templates", header: jsonType, body: `{"name":"a"}`}, 400, []string{"/spec"}, "required"},
		"route, spec text":      {call{method: "POST", path: "/v1/routes", header: jsonType, body: `{"name":"a","spec":["s3cret"]}`}, 400, []string{"/spec"}, "string or object"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := a.do(t, tc.call)
			p := into[api.Problem](t, w, tc.status)
			var fields []string
			for _, f := range p.Errors {
				if f.Line > 0 {
					f.Field = "#" + string(rune('0'+f.Line))
				}
				fields = append(fields, f.Field)
			}
			if diff := cmp.Diff(tc.fields, fields); diff != "" {
				t.Errorf("fields (-want +got):\n%s%s", diff, w.Body)
			}
			if !strings.Contains(p.Detail, tc.detail) {
				t.Errorf("detail %q lacks %q", p.Detail, tc.detail)
			}
			if id := w.Header().Get("X-Request-Id"); id == "" || p.Instance != "urn:batchwright:request:"+id {
				t.Errorf("instance %q, request id %q", p.Instance, id)
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" || p.Status != tc.status || !strings.HasPrefix(p.Type, "urn:batchwright:problem:") {
				t.Errorf("%s: %+v", ct, p)
			}
			if tc.status == 401 && w.Header().Get("WWW-Authenticate") == "" {
				t.Error("no challenge")
			}
			if tc.status == 405 && w.Header().Get("Allow") == "" {
				t.Error("no Allow")
			}
			if strings.Contains(strings.ToLower(w.Body.String()), "s3cret") {
				t.Errorf("a value came back: %s", w.Body)
			}
		})
	}
}

// TestErrorsBecomeProblems walks over what the layers below may return.
func TestErrorsBecomeProblems(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err    error
		status int
		kind   string
	}{
		"invalid":       {&jobs.Error{Code: jobs.Invalid, Field: "template", Message: "m"}, 400, "invalid-request"},
		"not found":     {&jobs.Error{Code: jobs.NotFound, Message: "m"}, 404, "not-found"},
		"conflict":      {&jobs.Error{Code: jobs.Conflict, Message: "m"}, 409, "conflict"},
		"too large":     {&jobs.Error{Code: jobs.TooLarge, Message: "m"}, 413, "too-large"},
		"unprocessable": {&jobs.Error{Code: jobs.Unprocessable, Message: "m"}, 422, "unprocessable"},
		"database down": {fmt.Errorf("query: %w", &net.OpError{Op: "dial", Err: errors.New("refused by s3cret")}), 503, "unavailable"},
		"anything else": {errors.New("dial postgres://u:s3cret@db"), 500, "internal"},
		"unknown code":  {&jobs.Error{Code: "new", Message: "s3cret"}, 500, "internal"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newAPI(t, &fake{writeErr: tc.err})
			w := a.do(t, call{method: "POST", header: jsonType, body: "{" + chat + `,"jobs":[]}`})
			p := into[api.Problem](t, w, tc.status)
			if p.Type != "urn:batchwright:problem:"+tc.kind {
				t.Errorf("type %s", p.Type)
			}
			if strings.Contains(w.Body.String(), "s3cret") {
				t.Errorf("the cause came out: %s", w.Body)
			}
			if logged := strings.Contains(a.log.String(), "level=ERROR"); logged != (tc.status >= 500) {
				t.Errorf("logged as an error: %v\n%s", logged, a.log)
			}
		})
	}
}

func TestFieldsOfTheDomainBecomePointers(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]string{
		"template": "/template", "route.steps[0].model": "/route/steps/0/model", "Idempotency-Key": "Idempotency-Key",
	} {
		a := newAPI(t, &fake{writeErr: &jobs.Error{Code: jobs.Invalid, Field: field, Message: "is wrong"}})
		p := into[api.Problem](t, a.do(t, call{method: "POST", header: jsonType, body: "{" + chat + `,"jobs":[]}`}), 400)
		if len(p.Errors) != 1 || p.Errors[0].Field != want || p.Detail != want+": is wrong" {
			t.Errorf("%s: %+v", field, p)
		}
	}
}

func TestProblemListsAtMost100Lines(t *testing.T) {
	t.Parallel()
	e := &jobs.Error{Code: jobs.Unprocessable, Message: "m", LineCount: 5000}
	for n := range 150 {
		e.Lines = append(e.Lines, jobs.LineError{Line: n + 1, CustomID: "c", Code: "bad_json", Message: "m"})
	}
	a := newAPI(t, &fake{writeErr: e})
	p := into[api.Problem](t, a.do(t, call{method: "POST", header: jsonType, body: "{" + chat + `,"jobs":[]}`}), 422)
	if len(p.Errors) != 100 || p.ErrorCount != 5000 || p.Errors[99].Line != 100 || p.Errors[99].CustomID != "c" {
		t.Errorf("%d errors of %d, last %+v", len(p.Errors), p.ErrorCount, p.Errors[len(p.Errors)-1])
	}
}

func TestPanicIsAnInternalProblem(t *testing.T) {
	t.Parallel()
	a := newAPI(t, &fake{}, func(s *api.Server) { s.Read = panicky{&fake{}} })
	into[api.Problem](t, a.do(t, call{}), 500)
	if !strings.Contains(a.log.String(), "panicky") || strings.Count(a.log.String(), "level=ERROR") != 1 {
		t.Errorf("log: %s", a.log)
	}
}

// TestEveryOperationNeedsAKey walks the contract: an operation is closed unless the contract opens it.
func TestEveryOperationNeedsAKey(t *testing.T) {
	t.Parallel()
	a := newAPI(t, &fake{})
	doc := contract(t, a)
	var opened []string
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if op.Security != nil {
				opened = append(opened, path)
				continue
			}
			w := a.do(t, call{method: method, path: strings.NewReplacer("{id}", "x", "{name}", "x").Replace(path), anonymous: true})
			if w.Code != http.StatusUnauthorized {
				t.Errorf("%s %s without a key: %d", method, path, w.Code)
			}
		}
	}
	if len(opened) != 3 {
		t.Errorf("open: %v", opened)
	}
}

// TestContractDescribesEverything also keeps the two forms of a batch's options the same.
func TestContractDescribesEverything(t *testing.T) {
	t.Parallel()
	doc := contract(t, newAPI(t, &fake{}))
	seen := map[*openapi3.Schema]bool{}
	var walk func(where string, s *openapi3.SchemaRef)
	walk = func(where string, s *openapi3.SchemaRef) {
		if s == nil || seen[s.Value] {
			return
		}
		seen[s.Value] = true
		if s.Value.Description == "" {
			t.Errorf("%s has no description", where)
		}
		for name, p := range s.Value.Properties {
			walk(where+"."+name, p)
		}
	}
	for name, s := range doc.Components.Schemas {
		walk(name, s)
	}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if op.Summary == "" || op.OperationID == "" {
				t.Errorf("%s %s has no summary or id", method, path)
			}
			for _, p := range op.Parameters {
				if p.Value.Description == "" {
					t.Errorf("%s %s: %s has no description", method, path, p.Value.Name)
				}
			}
		}
	}
	options, submission := doc.Components.Schemas["BatchOptions"].Value, doc.Components.Schemas["BatchSubmission"].Value
	delete(submission.Properties, "jobs")
	if len(options.Properties) != len(submission.Properties) {
		t.Error("BatchOptions and BatchSubmission differ")
	}
	for name, p := range options.Properties {
		if s := submission.Properties[name]; s == nil || s.Ref != p.Ref {
			t.Errorf("BatchOptions and BatchSubmission differ in %s", name)
		}
	}
}

func contract(t *testing.T, a *testAPI) *openapi3.T {
	t.Helper()
	w := a.do(t, call{path: "/openapi.json", anonymous: true})
	doc, err := openapi3.NewLoader().LoadFromData(w.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return doc
}
