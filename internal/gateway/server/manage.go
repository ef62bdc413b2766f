package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"

	"batchwright/internal/gateway"
	"batchwright/internal/store"
)

// management is Cloudflare's management API of the AI gateway, and a resource "tokens" of our own, since the tokens are.
//
// Decisions of 2026-11-21. Unknown fields and, where logs are filtered, unknown parameters are errors: a misspelt filter must not
// list or delete everything. Datasets, evaluations, policies and billing are not implemented and say so. A name that
// is taken is 409 with code 7000; Cloudflare's answer to that isn't documented.
type management struct {
	s   *Server
	db  *store.DB
	box *Box
	log *slog.Logger
}

// manage returns the management API, for paths under /client/v4/.
func (s *Server) manage() http.Handler {
	m := &management{s: s, db: s.o.DB, box: s.o.Box, log: s.o.Log}
	return m.handler()
}

// changed has what this process remembers of a gateway read again, or with no gateway, of all the account's and of tokens.
func (m *management) changed(account, gateway string) { m.s.directory.changed(account, gateway) }

// Codes of Cloudflare's v4 envelope. 7000, 7002 and 7003 are documented for the AI gateway, the other two are its API's in general.
const (
	codeInvalid  = 7000
	codeMethod   = 7001
	codeNotFound = 7002
	codeNoRoute  = 7003
	codeAuth     = 10000
)

const (
	manageBase   = "/client/v4/accounts/{account}/ai-gateway"
	maxManageRaw = 1 << 20 // bytes of a request's body
)

// call is one authenticated request.
type call struct {
	*http.Request
	account, gateway string
	token            store.GatewayToken
	body             []byte
}

// answer is what a call returns: a result in the envelope, or with ContentType, bytes as they are.
type answer struct {
	Result      any
	Info        any
	Data        any // the result once more, where Cloudflare's lists of routes have it
	Route       any // and where its update of a route does
	Raw         []byte
	ContentType string
}

// fault is an error that the caller may see.
type fault struct {
	status, code int
	message      string
	problems     []Problem
}

func (f *fault) Error() string { return "server: " + f.message }

func invalidCall(problems ...Problem) error {
	return &fault{status: http.StatusBadRequest, code: codeInvalid, message: "the request is not valid", problems: problems}
}

func notFound(what string) error {
	return &fault{status: http.StatusNotFound, code: codeNotFound, message: what + " not found"}
}

type endpoint func(*call) (*answer, error)

func (m *management) endpoints() map[string]endpoint {
	gateway := "/gateways/{gateway}"
	list := map[string]endpoint{
		"GET /gateways":                      m.listGateways,
		"POST /gateways":                     m.createGateway,
		"GET " + gateway:                     m.getGateway,
		"PUT " + gateway:                     m.updateGateway,
		"DELETE " + gateway:                  m.deleteGateway,
		"GET /custom-providers":              m.listCustomProviders,
		"POST /custom-providers":             m.createCustomProvider,
		"GET /tokens":                        m.listTokens,
		"POST /tokens":                       m.createToken,
		"DELETE /tokens/{id}":                m.deleteToken,
		"GET " + gateway + "/url/{provider}": m.getURL,

		"GET /custom-providers/{id}":    m.getCustomProvider,
		"PUT /custom-providers/{id}":    m.updateCustomProvider,
		"PATCH /custom-providers/{id}":  m.updateCustomProvider,
		"DELETE /custom-providers/{id}": m.deleteCustomProvider,

		"GET " + gateway + "/logs":               m.listLogs,
		"DELETE " + gateway + "/logs":            m.deleteLogs,
		"GET " + gateway + "/logs/{id}":          m.getLog,
		"PATCH " + gateway + "/logs/{id}":        m.patchLog,
		"GET " + gateway + "/logs/{id}/request":  m.getLogRequest,
		"GET " + gateway + "/logs/{id}/response": m.getLogResponse,

		"GET " + gateway + "/provider_configs":         m.listProviderConfigs,
		"POST " + gateway + "/provider_configs":        m.createProviderConfig,
		"DELETE " + gateway + "/provider_configs/{id}": m.deleteProviderConfig,

		"GET " + gateway + "/routes":                         m.listRoutes,
		"POST " + gateway + "/routes":                        m.createRoute,
		"GET " + gateway + "/routes/{id}":                    m.getRoute,
		"PATCH " + gateway + "/routes/{id}":                  m.updateRoute,
		"DELETE " + gateway + "/routes/{id}":                 m.deleteRoute,
		"GET " + gateway + "/routes/{id}/versions":           m.listRouteVersions,
		"POST " + gateway + "/routes/{id}/versions":          m.createRouteVersion,
		"GET " + gateway + "/routes/{id}/versions/{version}": m.getRouteVersion,
		"GET " + gateway + "/routes/{id}/deployments":        m.listRouteDeployments,
		"POST " + gateway + "/routes/{id}/deployments":       m.createRouteDeployment,
	}
	for _, path := range []string{"/evaluation-types", "/billing/", gateway + "/datasets", gateway + "/datasets/", gateway + "/evaluations",
		gateway + "/evaluations/", gateway + "/policies", gateway + "/policies/"} {
		list[path] = notImplemented
	}
	return list
}

func notImplemented(*call) (*answer, error) {
	return nil, &fault{status: http.StatusNotFound, code: codeNoRoute, message: "not implemented by this server"}
}

func (m *management) handler() http.Handler {
	mux := http.NewServeMux()
	for pattern, e := range m.endpoints() {
		method, path, ok := strings.Cut(pattern, " ")
		if !ok {
			method, path = "", pattern
		}
		mux.Handle(strings.TrimLeft(method+" ", " ")+manageBase+path, m.serve(e))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		probe := &statusProbe{header: http.Header{}}
		h.ServeHTTP(probe, r)
		if probe.status == http.StatusMethodNotAllowed {
			w.Header().Set("Allow", probe.header.Get("Allow"))
			m.fail(w, r, &fault{status: probe.status, code: codeMethod, message: "the method " + r.Method + " is not available here"})
			return
		}
		m.fail(w, r, &fault{status: http.StatusNotFound, code: codeNoRoute, message: "no such route"})
	})
}

// statusProbe learns which refusal the mux would write, in the place of which ours is sent.
type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header         { return p.header }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }
func (p *statusProbe) WriteHeader(status int)      { p.status = status }

func (m *management) serve(e endpoint) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &call{Request: r, account: r.PathValue("account"), gateway: r.PathValue("gateway")}
		a, err := m.run(w, c, e)
		if err != nil {
			m.fail(w, r, err)
			return
		}
		if a.ContentType != "" {
			w.Header().Set("Content-Type", a.ContentType)
			w.Header().Set("X-Content-Type-Options", "nosniff")
			w.Header().Set("Content-Security-Policy", "sandbox") // it is somebody's text, and must not run
			w.Write(a.Raw)
			return
		}
		m.write(w, http.StatusOK, v4Envelope{Success: true, Errors: []v4Error{}, Messages: []v4Error{}, Result: a.Result, ResultInfo: a.Info,
			Data: a.Data, Route: a.Route})
	})
}

func (m *management) run(w http.ResponseWriter, c *call, e endpoint) (*answer, error) {
	if err := m.authorize(c); err != nil {
		return nil, err
	}
	if c.gateway != "" && !gateway.Identifier(c.gateway) {
		return nil, notFound("gateway")
	}
	if c.Method == http.MethodPost || c.Method == http.MethodPut || c.Method == http.MethodPatch {
		body, err := io.ReadAll(http.MaxBytesReader(w, c.Body, maxManageRaw))
		if _, large := errors.AsType[*http.MaxBytesError](err); large {
			return nil, &fault{status: http.StatusRequestEntityTooLarge, code: codeInvalid, message: "the body is over 1 MiB"}
		}
		if err != nil {
			return nil, invalidCall(Problem{"body", "broke off"})
		}
		if !utf8.Valid(body) {
			return nil, invalidCall(Problem{"body", "must be UTF-8"})
		}
		c.body = body
	}
	for name, values := range c.URL.Query() {
		if !isPlain(name) || !isPlain(strings.Join(values, "")) {
			return nil, invalidCall(Problem{"query", "holds control characters"})
		}
	}
	return e(c)
}

// authorize checks a request's token. To read needs Read or Edit, everything else Edit. A good token of another account is
// refused like a wrong one.
func (m *management) authorize(c *call) error {
	scheme, bearer, _ := strings.Cut(c.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		bearer = ""
	}
	token, ok, err := m.s.tokenOf(c.Context(), strings.TrimSpace(bearer))
	switch {
	case err != nil:
		return err
	case !ok || !mayUse(token, c.account) || !gateway.Identifier(c.account):
		return &fault{status: http.StatusUnauthorized, code: codeAuth, message: "authentication error: a valid token of this account is required"}
	case c.Method != http.MethodGet && c.Method != http.MethodHead && !token.Edit:
		return &fault{status: http.StatusForbidden, code: codeAuth, message: "the token doesn't have the permission edit"}
	case !token.Read && !token.Edit:
		return &fault{status: http.StatusForbidden, code: codeAuth, message: "the token doesn't have the permission read"}
	}
	c.token = token
	return nil
}

// isPlain reports whether s is text without control characters, which is all that names and searches need.
func isPlain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f })
}

type v4Error struct {
	Code    int      `json:"code"`
	Message string   `json:"message"`
	Path    []string `json:"path,omitempty"`
}

type v4Envelope struct {
	Success    bool      `json:"success"`
	Errors     []v4Error `json:"errors"`
	Messages   []v4Error `json:"messages"`
	Result     any       `json:"result"`
	ResultInfo any       `json:"result_info,omitempty"`
	Data       any       `json:"data,omitempty"`
	Route      any       `json:"route,omitempty"`
}

// fail writes an error. What isn't the caller's to know goes to the log.
func (m *management) fail(w http.ResponseWriter, r *http.Request, err error) {
	f, ok := errors.AsType[*fault](err)
	switch {
	case ok:
	case errors.Is(err, store.ErrNotFound):
		f = &fault{status: http.StatusNotFound, code: codeNotFound, message: "not found"}
	case errors.Is(err, store.ErrConflict):
		f = &fault{status: http.StatusConflict, code: codeInvalid, message: "the name is taken already"}
	case r.Context().Err() != nil:
		return // nobody is left to tell
	case store.IsTransient(err):
		w.Header().Set("Retry-After", "1")
		f = &fault{status: http.StatusServiceUnavailable, code: http.StatusServiceUnavailable, message: "the database is away; try again"}
		m.log.WarnContext(r.Context(), "gateway management failed", "path", r.Pattern, "error", err)
	default:
		f = &fault{status: http.StatusInternalServerError, code: http.StatusInternalServerError, message: "internal error"}
		m.log.ErrorContext(r.Context(), "gateway management failed", "path", r.Pattern, "error", err)
	}
	e := v4Envelope{Errors: []v4Error{}, Messages: []v4Error{}}
	for _, p := range f.problems {
		e.Errors = append(e.Errors, v4Error{Code: f.code, Message: p.Field + ": " + p.Message, Path: []string{p.Field}})
	}
	if len(e.Errors) == 0 {
		e.Errors = append(e.Errors, v4Error{Code: f.code, Message: f.message})
	}
	m.write(w, f.status, e)
}

func (m *management) write(w http.ResponseWriter, status int, e v4Envelope) {
	b, err := json.Marshal(e)
	if err != nil {
		m.log.Error("gateway management failed", "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"success":false,"errors":[{"code":500,"message":"internal error"}],"messages":[],"result":null}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

// id returns an id of the path. What isn't one can't be found.
func (c *call) id(name, what string) (uuid.UUID, error) {
	id, err := uuid.Parse(c.PathValue(name))
	if err != nil {
		return uuid.Nil, notFound(what)
	}
	return id, nil
}

// resultInfo is about a page of a list.
type resultInfo struct {
	Page       int `json:"page"`
	PerPage    int `json:"per_page"`
	Count      int `json:"count"`
	TotalCount int `json:"total_count"`
	TotalPages int `json:"total_pages"`
}

func infoOf(page, perPage, count, total int) resultInfo {
	return resultInfo{page, perPage, count, total, (total + perPage - 1) / max(perPage, 1)}
}

// page reads which part of a list is wanted: 20 a page by default.
func (c *call) page(most int) (page, perPage int, found []Problem) {
	q := c.URL.Query()
	page, perPage = 1, 20
	for _, p := range []struct {
		name string
		into *int
		most int
	}{{"page", &page, 1_000_000}, {"per_page", &perPage, most}} {
		s := q.Get(p.name)
		if s == "" {
			continue
		}
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > p.most {
			found = append(found, Problem{p.name, fmt.Sprintf("must be from 1 to %d", p.most)})
			continue
		}
		*p.into = n
	}
	return page, perPage, found
}

// decodeFields reads an object field by field into v, and returns every problem. The ignored fields may be there.
func decodeFields[T any](raw []byte, v *T, ignored ...string) []Problem {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return []Problem{{"body", "must be a JSON object"}}
	}
	var found []Problem
	for _, name := range ignored {
		delete(fields, name)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		if p := checkField[T](name, fields[name]); p != "" {
			found = append(found, Problem{name, p})
			delete(fields, name)
		}
	}
	b, err := json.Marshal(fields)
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		found = append(found, Problem{"body", "can't be read"})
	}
	return found
}
