package gatewaytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// AtGateway is the name under which a Script holds answers of the gateway itself, in a Universal's hands. An answer
// with Status 0 there lets the request through.
const AtGateway = "gateway"

// Universal is an http.Handler that speaks Cloudflare's Universal Endpoint at /v1/{account}/{gateway}: it walks the
// array, asks the script in each provider's place, and answers with the first good answer or the last failure. It is
// strict where Cloudflare is: what it would refuse or drop silently becomes a problem.
type Universal struct {
	Script *Script
	Token  string            // that cf-aig-authorization must hold; empty: no authentication
	Keys   map[string]string // the provider keys stored at the gateway

	mu       sync.Mutex
	requests int
	problems []string
	headers  []http.Header
	bodies   [][]byte
}

// Problems returns what was wrong with the requests so far.
func (u *Universal) Problems() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]string(nil), u.problems...)
}

// Last returns the header and body of the last request, or nil.
func (u *Universal) Last() (http.Header, []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.headers) == 0 {
		return nil, nil
	}
	return u.headers[len(u.headers)-1], u.bodies[len(u.bodies)-1]
}

func (u *Universal) problem(format string, args ...any) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.problems = append(u.problems, fmt.Sprintf(format, args...))
}

// universalStep is a step as it arrives; its query stays as it is.
type universalStep struct {
	Provider string
	Endpoint string
	Headers  map[string]string
	Query    json.RawMessage
	Config   *struct {
		RequestTimeout *int
		MaxAttempts    *int
		RetryDelay     *int
		Backoff        *string
	}
}

var universalPath = regexp.MustCompile(`^/v1/[A-Za-z0-9_-]+/[A-Za-z0-9_-]{1,64}/?$`)

// ServeHTTP implements http.Handler.
func (u *Universal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	u.mu.Lock()
	u.requests++
	id := fmt.Sprintf("log-%d", u.requests)
	u.headers, u.bodies = append(u.headers, r.Header.Clone()), append(u.bodies, body)
	u.mu.Unlock()
	w.Header().Set("Cf-Aig-Log-Id", id)
	w.Header().Set("Cf-Aig-Event-Id", r.Header.Get("Cf-Aig-Event-Id"))
	if a, ok := u.Script.next(Call{Provider: AtGateway, Path: r.URL.Path}); ok && (a.Status != 0 || a.Hang) {
		res, err := a.play(r)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		copyAnswer(w, res)
		return
	}
	if u.Token != "" && r.Header.Get("Cf-Aig-Authorization") != "Bearer "+u.Token {
		Envelope(w, http.StatusUnauthorized, 2009, "Unauthorized")
		return
	}
	u.checkRequest(r)
	steps, ok := u.read(body)
	if !ok {
		Envelope(w, http.StatusBadRequest, 2019, "Invalid request")
		return
	}
	u.walk(w, r, steps)
}

// Envelope writes a failure in the form that Cloudflare's gateway uses since October 2026.
func Envelope(w http.ResponseWriter, status, code int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"success":false,"result":[],"messages":[],"error":[{"code":%d,"message":%q}],"name":"AiGatewayError","httpCode":%d,"internalCode":%d,"message":%q,"description":%q}`,
		code, text, status, code, text, text)
}

var universalHeaders = map[string]*regexp.Regexp{
	"Cf-Aig-Authorization":   regexp.MustCompile(`^Bearer \S+$`),
	"Cf-Aig-Skip-Cache":      regexp.MustCompile(`^(true|false)$`),
	"Cf-Aig-Cache-Ttl":       regexp.MustCompile(`^[0-9]+$`),
	"Cf-Aig-Cache-Key":       regexp.MustCompile(`^.+$`),
	"Cf-Aig-Metadata":        regexp.MustCompile(`^\{.*\}$`),
	"Cf-Aig-Collect-Log":     regexp.MustCompile(`^(true|false)$`),
	"Cf-Aig-Event-Id":        regexp.MustCompile(`^.+$`),
	"Cf-Aig-Request-Timeout": regexp.MustCompile(`^[0-9]+$`),
	"Cf-Aig-Max-Attempts":    regexp.MustCompile(`^[1-5]$`),
	"Cf-Aig-Retry-Delay":     regexp.MustCompile(`^[0-9]+$`),
	"Cf-Aig-Backoff":         regexp.MustCompile(`^(constant|linear|exponential)$`),
	"Cf-Aig-No-Wholesale":    regexp.MustCompile(`^true$`),
}

// checkRequest compares the request line and headers with the protocol.
func (u *Universal) checkRequest(r *http.Request) {
	if r.Method != http.MethodPost {
		u.problem("method %s", r.Method)
	}
	if !universalPath.MatchString(r.URL.Path) {
		u.problem("path %s", r.URL.Path)
	}
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		u.problem("content type %q", r.Header.Get("Content-Type"))
	}
	for name, values := range r.Header {
		if !strings.HasPrefix(name, "Cf-") {
			continue
		}
		if form := universalHeaders[name]; form == nil || len(values) != 1 || !form.MatchString(values[0]) {
			u.problem("header %s: %q", name, values)
		}
	}
	if ttl := r.Header.Get("Cf-Aig-Cache-Ttl"); ttl != "" {
		if n, _ := strconv.Atoi(ttl); n < 60 || n > 31*24*3600 {
			u.problem("cache ttl %s", ttl)
		}
	}
	if m := r.Header.Get("Cf-Aig-Metadata"); m != "" {
		var entries map[string]any
		if err := json.Unmarshal([]byte(m), &entries); err != nil || len(entries) > 5 {
			u.problem("metadata %q", m)
		}
		for k, v := range entries {
			switch v.(type) {
			case string, float64, bool:
			default:
				u.problem("metadata %s is nested", k)
			}
		}
	}
}

var slug = regexp.MustCompile(`^[a-z0-9_-]+$`)

// read parses the array strictly.
func (u *Universal) read(body []byte) ([]universalStep, bool) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	var steps []universalStep
	if err := d.Decode(&steps); err != nil || len(steps) == 0 || d.More() {
		u.problem("body is not an array of steps: %v", err)
		return nil, false
	}
	for i, s := range steps {
		switch {
		case !slug.MatchString(s.Provider):
			u.problem("step %d: provider %q", i, s.Provider)
		case s.Endpoint == "" || strings.HasPrefix(s.Endpoint, "/"):
			u.problem("step %d: endpoint %q", i, s.Endpoint)
		case len(s.Query) == 0:
			u.problem("step %d: no query", i)
		}
		if c := s.Config; c != nil {
			if c.MaxAttempts != nil && (*c.MaxAttempts < 1 || *c.MaxAttempts > 5) {
				u.problem("step %d: maxAttempts %d", i, *c.MaxAttempts)
			}
			if c.RetryDelay != nil && (*c.RetryDelay < 0 || *c.RetryDelay > 5000) {
				u.problem("step %d: retryDelay %d", i, *c.RetryDelay)
			}
		}
	}
	return steps, true
}

// walk tries the steps in order, each as often as it or the request says, without pauses.
func (u *Universal) walk(w http.ResponseWriter, r *http.Request, steps []universalStep) {
	for i, s := range steps {
		tries, _ := strconv.Atoi(r.Header.Get("Cf-Aig-Max-Attempts"))
		if s.Config != nil && s.Config.MaxAttempts != nil {
			tries = *s.Config.MaxAttempts
		}
		h := http.Header{}
		for name, value := range s.Headers {
			h.Set(name, value)
		}
		if key := u.Keys[s.Provider]; key != "" && h.Get("Authorization") == "" {
			h.Set("Authorization", "Bearer "+key)
		}
		for try := range max(tries, 1) {
			last := i == len(steps)-1 && try == max(tries, 1)-1
			a, ok := u.Script.next(Call{s.Provider, "/" + s.Endpoint, h, string(s.Query)})
			if !ok {
				u.problem("step %d: no answer for provider %q", i, s.Provider)
				Envelope(w, http.StatusBadRequest, 2008, "no route")
				return
			}
			res, err := a.play(r)
			if err != nil && !last {
				continue
			}
			if err != nil {
				Envelope(w, http.StatusBadRequest, 2005, "Failed to get response from provider")
				return
			}
			if res.StatusCode/100 == 2 || last {
				w.Header().Set("Cf-Aig-Step", strconv.Itoa(i))
				if w.Header().Get("Cf-Aig-Cache-Status") == "" {
					w.Header().Set("Cf-Aig-Cache-Status", "MISS")
				}
				copyAnswer(w, res)
				return
			}
		}
	}
}

func copyAnswer(w http.ResponseWriter, res *http.Response) {
	for name, values := range res.Header {
		w.Header()[name] = values
	}
	w.WriteHeader(res.StatusCode)
	if _, err := io.Copy(w, res.Body); err != nil {
		panic(http.ErrAbortHandler)
	}
}
