//go:build clients

package clients

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// want is what must be true of a case beside what the client itself asserts.
type want struct {
	gateway string // default main
	answers []int  // statuses that the client got; default one 200. 0: it left before
	sent    []int  // statuses that the providers answered with; default as answers. dropped: the gateway went away
	refused int    // how many answers were the gateway's own
	stored  bool   // the provider gets the stored key

	kind, provider, model string // of the last request's row in the log; an empty provider: of none
	in, out               int64
	step                  int
	hit                   bool // the last answer came from the cache
	unlogged              bool // nothing is in the log
	row                   func(row) bool
}

// dropped stands for an answer that a provider still owed when the gateway hung up.
const dropped = -1

func (h *house) verifyCase(ctx context.Context, t *testing.T, w want, exchanges []*exchange, sent []*asked) {
	t.Helper()
	if w.gateway == "" {
		w.gateway = "main"
	}
	if w.answers == nil {
		w.answers = []int{200}
	}
	if w.sent == nil {
		w.sent = w.answers
	}
	var answers, statuses []int
	for _, e := range exchanges {
		if e.status == 499 { // written to a client that had left; it may or may not have come this far
			e.status = 0
		}
		answers = append(answers, e.status)
	}
	for _, a := range sent {
		if a.dropped {
			a.status = dropped
		}
		statuses = append(statuses, a.status)
	}
	if !slices.Equal(answers, w.answers) || !slices.Equal(statuses, w.sent) {
		t.Fatalf("the client was answered %v, want %v; the providers answered %v, want %v", answers, w.answers, statuses, w.sent)
	}
	for _, a := range sent {
		h.verifySent(t, w, exchanges, a)
	}
	refused := 0
	for _, e := range exchanges {
		if !verifyAnswer(t, e, sent) {
			refused++
		}
	}
	if refused != w.refused {
		t.Errorf("the gateway itself gave %d answers, want %d", refused, w.refused)
	}
	h.verifyLog(ctx, t, w, exchanges, sent)
}

// verifySent: a provider got the client's bytes, its headers and one credential, and nothing of what is the gateway's.
func (h *house) verifySent(t *testing.T, w want, exchanges []*exchange, a *asked) {
	t.Helper()
	found := false
	for _, e := range exchanges {
		header, ok := expected(w, e, a)
		if !ok || header.Get(retryCount) != a.header.Get(retryCount) {
			continue
		}
		found = true
		sameHeaders(t, header, a.header)
		break
	}
	if !found {
		t.Errorf("a provider got %s %s with the body\n%s\nwhich the client didn't send", a.method, a.path, a.body)
	}
	if strings.Contains(a.path, "v1/v1") {
		t.Errorf("a provider was asked at %s", a.path)
	}
	credential := a.header.Get("Authorization") + a.header.Get("X-Api-Key") + a.header.Get("X-Goog-Api-Key")
	key := providerKey
	if w.stored {
		key = storedKey
	}
	if credential != key && credential != "Bearer "+key {
		t.Errorf("a provider got the credential %q, want %q", credential, key)
	}
	for name, values := range a.header {
		if strings.HasPrefix(strings.ToLower(name), "cf-") || strings.Contains(strings.Join(values, ""), h.token) {
			t.Errorf("a provider got the header %s", name)
		}
	}
	if bytes.Contains(a.body, []byte(h.token)) {
		t.Error("a provider got the gateway's token")
	}
}

// retryCount tells the tries of one call apart, which are otherwise the same.
const retryCount = "X-Stainless-Retry-Count"

var prefixed = regexp.MustCompile(`"model":"(openai|anthropic|google-ai-studio)/`)

// expected returns the headers that a provider must have got for an exchange, and false when its body wasn't that of the exchange.
func expected(w want, e *exchange, a *asked) (http.Header, bool) {
	body, header := e.body, e.header
	switch w.kind {
	case "universal":
		var steps []struct {
			Provider string
			Headers  map[string]string
			Query    json.RawMessage
		}
		if json.Unmarshal(e.body, &steps) != nil {
			return nil, false
		}
		for _, s := range steps {
			if s.Provider != a.slug || !bytes.Equal(s.Query, a.body) {
				continue
			}
			header = http.Header{}
			for name, v := range s.Headers {
				header.Set(name, v)
			}
			return header, true
		}
		return nil, false
	case "compat":
		body = prefixed.ReplaceAll(body, []byte(`"model":"`))
		if bytes.Contains(body, []byte(`"dynamic/`)) {
			var q question
			_ = json.Unmarshal(a.body, &q)
			body = bytes.Replace(body, []byte("dynamic/careful"), []byte(q.Model), 1)
		}
	default:
		u, _ := url.Parse(e.path)
		p, _ := url.Parse(a.path)
		if e.method != a.method || u.RawQuery != p.RawQuery {
			return nil, false
		}
	}
	return header, bytes.Equal(body, a.body)
}

// ours are the headers that belong to a connection, to the gateway, or to a credential.
var ours = regexp.MustCompile(`^(Cf-|Connection$|Keep-Alive$|Host$|Content-Length$|Transfer-Encoding$|Accept-Encoding$|Authorization$|X-Api-Key$|X-Goog-Api-Key$|User-Agent$)`)

// sameHeaders: what the client said to the provider arrived, and nothing was added.
func sameHeaders(t *testing.T, want, got http.Header) {
	t.Helper()
	for name, v := range want {
		if !ours.MatchString(name) && !slices.Equal(v, got[name]) {
			t.Errorf("the header %s arrived as %q, sent was %q", name, got[name], v)
		}
	}
	for name, v := range got {
		if _, ok := want[name]; !ok && !ours.MatchString(name) {
			t.Errorf("the header %s: %q was added", name, v)
		}
	}
	if ua := want.Get("User-Agent"); ua != "" && got.Get("User-Agent") != ua {
		t.Errorf("User-Agent arrived as %q, sent was %q", got.Get("User-Agent"), ua)
	}
}

// verifyAnswer: what came back is what a provider said, byte for byte. It reports false for an answer of the gateway's own, which must
// have the form of Cloudflare's. An answer that was cut off must be the beginning of one.
func verifyAnswer(t *testing.T, e *exchange, sent []*asked) bool {
	t.Helper()
	if e.status == 0 {
		return true
	}
	for _, name := range []string{"Cf-Aig-Log-Id", "Cf-Aig-Event-Id", "Cf-Aig-Step", "Cf-Aig-Cache-Status"} {
		if e.answer.Get(name) == "" && !strings.HasSuffix(e.path, "/compat/models") {
			t.Errorf("the answer has no %s", name)
		}
	}
	for _, a := range sent {
		if (a.status == e.status || a.dropped) && (bytes.Equal(a.answer, e.received) || !e.whole && bytes.HasPrefix(a.answer, e.received)) {
			return true
		}
	}
	var envelope struct {
		Success      *bool
		Error        []struct{ Code int }
		InternalCode int
		HTTPCode     int
	}
	if json.Unmarshal(e.received, &envelope) == nil && envelope.Success != nil && !*envelope.Success && len(envelope.Error) == 1 &&
		envelope.InternalCode == envelope.Error[0].Code && envelope.HTTPCode == e.status || strings.HasSuffix(e.path, "/compat/models") {
		return false
	}
	t.Errorf("the client got %d %s\nwhich no provider said", e.status, e.received)
	return true
}

// prices are of models that the price table knows.
var priced = []string{"gpt-4o-mini", "claude-sonnet-5-5", "gemini-2.5-pro"}

// verifyLog: every answer is in the log with its status, and the last one with all that is known of it, its bodies included.
func (h *house) verifyLog(ctx context.Context, t *testing.T, w want, exchanges []*exchange, sent []*asked) {
	t.Helper()
	for i, e := range exchanges {
		if e.status == 0 {
			continue
		}
		id := e.answer.Get("Cf-Aig-Log-Id")
		if w.unlogged {
			if status, _ := h.call(ctx, t, http.MethodGet, "/gateways/"+w.gateway+"/logs/"+id, nil); status != http.StatusNotFound {
				t.Errorf("the log has %s: %d", id, status)
			}
			continue
		}
		r, ok := h.logged(ctx, t, w.gateway, id)
		if !ok {
			t.Fatalf("%s is not in the log", id)
		}
		if r.StatusCode != e.status || r.Success != (e.status == 200 && e.whole) || r.UserAgent != e.header.Get("User-Agent") ||
			r.EventID != e.answer.Get("Cf-Aig-Event-Id") || r.Cached != (e.answer.Get("Cf-Aig-Cache-Status") == "HIT") {
			t.Errorf("the log has %+v for an answer with %d", r, e.status)
		}
		if i == len(exchanges)-1 && w.provider != "" {
			h.verifyRow(ctx, t, w, r, e, id, sent)
		}
	}
}

func (h *house) verifyRow(ctx context.Context, t *testing.T, w want, r row, e *exchange, id string, sent []*asked) {
	t.Helper()
	if r.Provider != w.provider || r.Model != w.model || r.RequestType != w.kind || r.TokensIn != w.in || r.TokensOut != w.out || r.Step != w.step ||
		r.Cached != w.hit {
		t.Errorf("the log has %+v, want %s %s of %s, %d and %d tokens, step %d, cached %t", r, w.provider, w.model, w.kind, w.in, w.out, w.step, w.hit)
	}
	if slices.Contains(priced, w.model) && w.in > 0 && (r.Cost == nil || *r.Cost <= 0) {
		t.Errorf("the log has no cost for %d tokens of %s", w.in, w.model)
	}
	if w.row != nil && !w.row(r) {
		t.Errorf("the log has %+v", r)
	}
	if _, raw := h.call(ctx, t, http.MethodGet, "/gateways/"+w.gateway+"/logs/"+id+"/response", nil); !bytes.Equal(raw, e.received) && e.whole {
		t.Errorf("the log has the answer\n%s\nof\n%s", raw, e.received)
	}
	if w.hit || w.refused > 0 || e.method != http.MethodPost {
		return
	}
	_, raw := h.call(ctx, t, http.MethodGet, "/gateways/"+w.gateway+"/logs/"+id+"/request", nil)
	if !slices.ContainsFunc(sent, func(a *asked) bool { return bytes.Equal(a.body, raw) }) {
		t.Errorf("the log has the request\n%s\nwhich no provider got", raw)
	}
}
