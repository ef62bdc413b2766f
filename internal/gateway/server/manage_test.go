package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// desk is a server's management API on a database of its own.
type desk struct {
	t      *testing.T
	url    string // of the test's database
	db     *store.DB
	box    *Box
	server *Server
	api    http.Handler
}

const deskAdmin = "the administrator's token"

func newDesk(t *testing.T) *desk {
	t.Helper()
	box, err := NewBox([]byte("0123456789abcdef0123456789abcdef"))
	if err != nil {
		t.Fatal(err)
	}
	url := storetest.URL(t)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	s, err := New(Options{DB: db, Box: box, AdminToken: deskAdmin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &desk{t: t, url: url, db: db, box: box, server: s, api: s.Handler()}
}

// said is an answer of the API, read.
type said struct {
	status int
	raw    string
	header http.Header

	Success bool            `json:"success"`
	Errors  []v4Error       `json:"errors"`
	Result  json.RawMessage `json:"result"`
	Info    map[string]any  `json:"result_info"`
	Data    json.RawMessage `json:"data"`
	Route   json.RawMessage `json:"route"`
}

func (d *desk) as(token, method, path, body string) said {
	d.t.Helper()
	r := httptest.NewRequestWithContext(d.t.Context(), method, "/client/v4/accounts/acc/ai-gateway"+path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	d.api.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	a := said{status: w.Code, raw: string(b), header: w.Header()}
	if w.Header().Get("Content-Type") == "application/json" && json.Unmarshal(b, &a) != nil && strings.HasPrefix(string(b), `{"success"`) {
		d.t.Fatalf("%s %s: %s is not the envelope", method, path, b)
	}
	return a
}

// do is a request of the administrator's that must end with a status.
func (d *desk) do(status int, method, path, body string) said {
	d.t.Helper()
	a := d.as(deskAdmin, method, path, body)
	if a.status != status {
		d.t.Fatalf("%s %s: %d %s, want %d", method, path, a.status, a.raw, status)
	}
	return a
}

func into[T any](t *testing.T, raw json.RawMessage) (v T) {
	t.Helper()
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatalf("%s: %v", raw, err)
	}
	return v
}

const plainGateway = `{"id":"gw","cache_invalidate_on_update":false,"cache_ttl":null,"collect_logs":true,"rate_limiting_interval":0,"rate_limiting_limit":null}`

func TestGatewayLife(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	made := into[map[string]any](t, d.do(200, "POST", "/gateways", plainGateway).Result)
	if made["id"] != "gw" || made["authentication"] != true || made["cache_ttl"] != nil || made["collect_logs"] != true || made["is_default"] != false {
		t.Errorf("made %v", made)
	}
	if a := d.do(409, "POST", "/gateways", plainGateway); len(a.Errors) != 1 || a.Errors[0].Code != 7000 {
		t.Errorf("made twice: %s", a.raw)
	}
	// What a client read, it may send back changed; what it leaves out, stays.
	d.do(200, "PUT", "/gateways/gw", `{"cache_invalidate_on_update":true,"cache_ttl":300,"collect_logs":true,"rate_limiting_interval":60,"rate_limiting_limit":5,
		"authentication":false,"dlp":{"enabled":true,"policies":[{"id":"p","enabled":true,"action":"BLOCK","check":["REQUEST"],"profiles":["email"]}]}}`)
	got := d.do(200, "GET", "/gateways/gw", "")
	again := strings.Replace(string(got.Result), `"cache_ttl":300`, `"cache_ttl":60`, 1)
	d.do(200, "PUT", "/gateways/gw", again)
	s := into[map[string]any](t, d.do(200, "PUT", "/gateways/gw", plainGateway).Result)
	if s["authentication"] != false || s["dlp"] == nil || s["cache_ttl"] != nil || s["rate_limiting_limit"] != nil {
		t.Errorf("updated %v", s)
	}
	s = into[map[string]any](t, d.do(200, "PUT", "/gateways/gw", strings.Replace(plainGateway, `{`, `{"dlp":null,`, 1)).Result)
	if s["dlp"] != nil {
		t.Errorf("null left %v", s["dlp"])
	}
	d.do(200, "DELETE", "/gateways/gw", "")
	for _, path := range []string{"/gateways/gw", "/gateways/gw/logs", "/gateways/gw/provider_configs", "/gateways/gw/routes", "/gateways/gw/url/openai", "/gateways/%00"} {
		if a := d.do(404, "GET", path, ""); a.Errors[0].Code != 7002 {
			t.Errorf("%s: %s", path, a.raw)
		}
	}
	d.do(404, "DELETE", "/gateways/gw", "")
	d.do(404, "PUT", "/gateways/gw", plainGateway)
}

func TestGatewaysPage(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for i := range 7 {
		d.do(200, "POST", "/gateways", strings.Replace(plainGateway, "gw", fmt.Sprintf("team-%d", i), 1))
	}
	d.do(200, "POST", "/gateways", plainGateway)
	a := d.do(200, "GET", "/gateways?search=TEAM&page=2&per_page=3", "")
	list := into[[]map[string]any](t, a.Result)
	if len(list) != 3 || list[0]["id"] != "team-3" || a.Info["total_count"] != 7.0 || a.Info["count"] != 3.0 || a.Info["page"] != 2.0 || a.Info["total_pages"] != 3.0 {
		t.Errorf("page 2: %s", a.raw)
	}
	a = d.do(400, "GET", "/gateways?page=0&per_page=101", "")
	if len(a.Errors) != 2 {
		t.Errorf("bad page: %s", a.raw)
	}
}

func TestGatewayProblemsAreAllNamed(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	a := d.do(400, "POST", "/gateways", `{"id":"no spaces","cache_ttl":-1,"collect_logs":null,"rate_limiting_interval":"x","retry_max_attempts":6,"retry_delay":5001,
		"retry_backoff":"never","log_management":5,"log_management_strategy":"x","logpush":true,"otel":[{"url":"https://x"}],"colect_logs":true,
		"dlp":{"enabled":true,"policies":[{"action":"BURN"},{"action":"BLOCK","check":["REQUEST"],"profiles":["a","pii","nothing"]}]},"guardrails":{"prompt":{"S14":"FLAG"}},
		"spend_limits":{"enabled":true,"rules":[{"limitType":"cost","limit":0,"window":0,"technique":"fixed"}]},
		"rules":[{"name":"a","pattern":"("},{"name":"b","pattern":"x*"}],"rate_limiting_technique":"fixed","stripe":{"authorization":"sk_live_secret"}}`)
	var fields []string
	for _, e := range a.Errors {
		if e.Code != 7000 {
			t.Errorf("code %d", e.Code)
		}
		fields = append(fields, e.Path...)
	}
	for _, want := range []string{"id", "cache_ttl", "collect_logs", "rate_limiting_interval", "rate_limiting_limit", "cache_invalidate_on_update", "retry_max_attempts",
		"retry_delay", "retry_backoff", "log_management", "log_management_strategy", "logpush", "otel", "stripe", "colect_logs", "dlp.policies[0].action",
		"dlp.policies[0].check", "dlp.policies[0].profiles", "dlp.policies[1].profiles", "guardrails.prompt", "spend_limits.rules[0].limit", "spend_limits.rules[0].window", "rules[0].pattern",
		"rules[1].pattern"} {
		if !strings.Contains(" "+strings.Join(fields, " ")+" ", " "+want+" ") {
			t.Errorf("%s is missing in %v", want, fields)
		}
	}
	if strings.Contains(a.raw, "sk_live_secret") {
		t.Error("an error repeats a secret")
	}
	for _, body := range []string{"", "null", "[]", "{", `"x"`, "\xff"} {
		d.do(400, "POST", "/gateways", body)
	}
	d.do(413, "POST", "/gateways", `{"id":"`+strings.Repeat("x", 1<<20)+`"}`)
}

func TestTokensAndPermissions(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.do(200, "POST", "/gateways", plainGateway)
	token := func(permissions string) string {
		r := into[struct{ Token string }](t, d.do(200, "POST", "/tokens", `{"name":"n","permissions":[`+permissions+`]}`).Result)
		if !isToken(r.Token) {
			t.Fatalf("token %q", r.Token)
		}
		return r.Token
	}
	read, edit, run := token(`"read"`), token(`"edit"`), token(`"run"`)
	fresh, _ := newToken()
	for _, c := range []struct {
		token, method, path, body string
		want                      int
	}{
		{"", "GET", "/gateways", "", 401}, {"nonsense", "GET", "/gateways", "", 401}, {fresh, "GET", "/gateways", "", 401},
		{run, "GET", "/gateways", "", 403}, {run, "DELETE", "/gateways/gw", "", 403},
		{read, "GET", "/gateways", "", 200}, {read, "PUT", "/gateways/gw", plainGateway, 403}, {read, "DELETE", "/gateways/gw/logs?limit=1", "", 403},
		{edit, "GET", "/gateways", "", 200}, {edit, "PUT", "/gateways/gw", plainGateway, 200},
		{edit, "POST", "/tokens", `{"name":"more","permissions":["run"]}`, 403}, {edit, "POST", "/tokens", `{"name":"same","permissions":["edit","read"]}`, 200},
		{read, "POST", "/tokens", `{"name":"x","permissions":["read"]}`, 403}, {deskAdmin, "POST", "/tokens", `{"name":"","permissions":["fly"]}`, 400},
	} {
		a := d.as(c.token, c.method, c.path, c.body)
		if a.status != c.want {
			t.Errorf("%s %s: %d %s, want %d", c.method, c.path, a.status, a.raw, c.want)
		}
		if a.status == 401 && (a.Success || len(a.Errors) != 1 || a.Errors[0].Code != 10000) {
			t.Errorf("401 is %s", a.raw)
		}
	}
	// A token is good for its account only.
	r := httptest.NewRequestWithContext(t.Context(), "GET", "/client/v4/accounts/other/ai-gateway/gateways", nil)
	r.Header.Set("Authorization", "Bearer "+edit)
	w := httptest.NewRecorder()
	d.api.ServeHTTP(w, r)
	if w.Code != 401 {
		t.Errorf("another account: %d", w.Code)
	}
	// It is shown once, and gone when it is deleted.
	a := d.do(200, "GET", "/tokens", "")
	if strings.Contains(a.raw, tokenPrefix) {
		t.Error("the list shows a token")
	}
	for _, tok := range into[[]tokenResult](t, a.Result) {
		d.do(200, "DELETE", "/tokens/"+tok.ID, "")
		d.do(404, "DELETE", "/tokens/"+tok.ID, "")
	}
	if a := d.as(read, "GET", "/gateways", ""); a.status != 401 {
		t.Errorf("revoked token: %d", a.status)
	}
}

func TestAKeyMayBeStoredBeforeTheDefaultGatewayMadeItself(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	const config = `{"provider_slug":"openai","alias":"default","secret":"sk-something"}`
	d.do(200, "POST", "/gateways/default/provider_configs", config)
	d.do(404, "POST", "/gateways/other/provider_configs", config)
	d.do(200, "GET", "/gateways/default", "")
}

func TestProviderKeysNeverComeBack(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.do(200, "POST", "/gateways", plainGateway)
	const secret = "sk-proj-very-secret-0123456789wxyz"
	config := func(alias, secret string) string {
		return fmt.Sprintf(`{"provider_slug":"openai","alias":%q,"default_config":true,"secret":%q,"secret_id":"","rate_limit":5,"rate_limit_period":60}`, alias, secret)
	}
	a := d.do(200, "POST", "/gateways/gw/provider_configs", config("default", secret))
	first := into[providerConfigResult](t, a.Result)
	if first.SecretPreview != "wxyz" || !first.DefaultConfig || first.ProviderSlug != "openai" || first.GatewayID != "gw" || first.RateLimit != 5 {
		t.Errorf("made %s", a.raw)
	}
	d.do(200, "POST", "/gateways/gw/provider_configs", config("second", secret+"2"))
	list := d.do(200, "GET", "/gateways/gw/provider_configs", "")
	if strings.Contains(a.raw+list.raw, "very-secret") {
		t.Error("an answer holds the secret")
	}
	configs := into[[]providerConfigResult](t, list.Result)
	if len(configs) != 2 || configs[0].Alias != "second" || !configs[0].DefaultConfig || configs[1].DefaultConfig {
		t.Errorf("the later default takes it from the earlier: %s", list.raw)
	}
	keys, err := d.db.ProviderKeys(t.Context(), "acc", "gw")
	if err != nil || len(keys) != 2 {
		t.Fatalf("%d keys, %v", len(keys), err)
	}
	for _, k := range keys {
		if strings.Contains(string(k.Sealed), "very-secret") {
			t.Error("the database holds the secret")
		}
		want := map[string]string{"default": secret, "second": secret + "2"}[k.Alias]
		if got, err := d.box.Open(k.Sealed, "acc", "gw", "openai", k.Alias); err != nil || got != want {
			t.Errorf("opened %v", err)
		}
		if _, err := d.box.Open(k.Sealed, "acc", "gw", "openai", "other"); err == nil {
			t.Error("opened under another alias")
		}
	}
	for _, body := range []string{config("", ""), config("a b", "x"), config("a", "two\nlines"), `{"provider_slug":"nobody","secret":"x"}`,
		`{"provider_slug":"openai","secret_id":"only"}`, `{"provider_slug":"openai","secret":"x","secrt":1}`} {
		if a := d.do(400, "POST", "/gateways/gw/provider_configs", body); strings.Contains(a.raw, "lines") {
			t.Errorf("an error repeats the secret: %s", a.raw)
		}
	}
	d.do(404, "POST", "/gateways/none/provider_configs", config("default", secret))
	d.do(200, "DELETE", "/gateways/gw/provider_configs/"+first.ID, "")
	d.do(404, "DELETE", "/gateways/gw/provider_configs/"+first.ID, "")
	d.do(404, "DELETE", "/gateways/gw/provider_configs/x", "")
}

func TestSealedKeysOpenInTheirPlaceOnly(t *testing.T) {
	t.Parallel()
	box, err := NewBox(make([]byte, BoxKeySize))
	if err != nil {
		t.Fatal(err)
	}
	sealed := box.Seal("secret", "acc", "gw", "openai", "default")
	if got, err := box.Open(sealed, "acc", "gw", "openai", "default"); err != nil || got != "secret" {
		t.Fatalf("%q, %v", got, err)
	}
	for _, p := range [][4]string{{"ac", "cgw", "openai", "default"}, {"acc", "gw", "openai", "other"}, {"acc", "gw2", "openai", "default"}, {"acc", "gw", "openaid", "efault"}} {
		if got, err := box.Open(sealed, p[0], p[1], p[2], p[3]); err == nil {
			t.Errorf("%v opened %q", p, got)
		}
	}
	for i := range sealed {
		bad := append([]byte(nil), sealed...)
		bad[i] ^= 1
		if _, err := box.Open(bad, "acc", "gw", "openai", "default"); err == nil {
			t.Errorf("byte %d changed, and it opened", i)
		}
	}
	if _, err := box.Open(nil, "acc", "gw", "openai", "default"); err == nil {
		t.Error("nothing opened")
	}
	if other, err := NewBox([]byte(strings.Repeat("k", BoxKeySize))); err != nil {
		t.Error(err)
	} else if _, err := other.Open(sealed, "acc", "gw", "openai", "default"); err == nil {
		t.Error("opened with another key")
	}
	if _, err := NewBox(make([]byte, 16)); err == nil {
		t.Error("a short key made a box")
	}
}

func TestCustomProviders(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.do(200, "POST", "/gateways", plainGateway)
	before, err := d.db.Gateway(t.Context(), "acc", "gw")
	if err != nil {
		t.Fatal(err)
	}
	made := into[customProviderResult](t, d.do(200, "POST", "/custom-providers", `{"name":"Mine","slug":"vllm","base_url":"https://llm.example.com/v1","position":3}`).Result)
	if made.Enable || made.Slug != "vllm" {
		t.Errorf("made %+v", made)
	}
	after, err := d.db.Gateway(t.Context(), "acc", "gw")
	if err != nil || after.Revision <= before.Revision {
		t.Errorf("revision %d, before %d, %v", after.Revision, before.Revision, err)
	}
	d.do(409, "POST", "/custom-providers", `{"name":"Twin","slug":"vllm","base_url":"https://llm.example.com"}`)
	d.do(200, "PATCH", "/custom-providers/"+made.ID, `{"enable":true}`)
	got := into[customProviderResult](t, d.do(200, "GET", "/custom-providers/"+made.ID, "").Result)
	if !got.Enable || got.BaseURL != made.BaseURL || got.Name != "Mine" {
		t.Errorf("patched %+v", got)
	}
	for _, body := range []string{`{}`, `{"name":"a","slug":"A B","base_url":"https://x.example"}`, `{"name":"a","slug":"b","base_url":"http://x.example"}`,
		`{"name":"a","slug":"b","base_url":"https://user:pw@x.example"}`, `{"name":"a","slug":"b","base_url":"https://x.example?q=1"}`,
		`{"name":"a","slug":"b","base_url":"https://x.example","link":"javascript:alert(1)"}`, `{"name":"a","slug":"b","base_url":"https://x.example","headers":"{}"}`} {
		d.do(400, "POST", "/custom-providers", body)
	}
	d.do(200, "POST", "/custom-providers", `{"name":"Other","slug":"tgi","base_url":"https://tgi.example.com"}`)
	a := d.do(200, "GET", "/custom-providers?enable=true&search=mine", "")
	if list := into[[]customProviderResult](t, a.Result); len(list) != 1 || list[0].ID != made.ID || a.Info["total_count"] != 1.0 {
		t.Errorf("list %s", a.raw)
	}
	if list := into[[]customProviderResult](t, d.do(200, "GET", "/custom-providers?order_by=created_at", "").Result); len(list) != 2 || list[0].Slug != "tgi" {
		t.Errorf("newest first: %+v", list)
	}
	d.do(200, "DELETE", "/custom-providers/"+made.ID, "")
	d.do(404, "GET", "/custom-providers/"+made.ID, "")
}

func TestURLs(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.do(200, "POST", "/gateways", plainGateway)
	for provider, want := range map[string]string{"openai": "http://example.com/v1/acc/gw/openai", "universal": "http://example.com/v1/acc/gw",
		"compat": "http://example.com/v1/acc/gw/compat"} {
		if got := into[string](t, d.do(200, "GET", "/gateways/gw/url/"+provider, "").Result); got != want {
			t.Errorf("%s: %s, want %s", provider, got, want)
		}
	}
	d.do(400, "GET", "/gateways/gw/url/nobody", "")
}

func TestWhatIsNotThereSaysSo(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	for _, c := range []struct {
		method, path string
		status, code int
	}{
		{"GET", "/nothing", 404, 7003}, {"GET", "/evaluation-types", 404, 7003}, {"POST", "/gateways/gw/datasets", 404, 7003},
		{"GET", "/billing/credit-balance", 404, 7003}, {"GET", "/gateways/gw/policies/x", 404, 7003}, {"PATCH", "/gateways", 405, 7001},
		{"GET", "/gateways/gw/logs/0", 404, 7002}, {"GET", "/gateways/gw/logs/" + uuid.Nil.String() + "/request", 404, 7002},
	} {
		a := d.as(deskAdmin, c.method, c.path, "")
		if a.status != c.status || len(a.Errors) != 1 || a.Errors[0].Code != c.code || a.Success {
			t.Errorf("%s %s: %d %s", c.method, c.path, a.status, a.raw)
		}
	}
	if a := d.as(deskAdmin, "PATCH", "/gateways", ""); !strings.Contains(a.header.Get("Allow"), "POST") {
		t.Errorf("allow %q", a.header.Get("Allow"))
	}
}

// seed writes a small log: four requests, a minute apart.
func (d *desk) seed() []store.GatewayLog {
	d.t.Helper()
	d.do(200, "POST", "/gateways", plainGateway)
	start := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	cost := func(n int64) *int64 { return &n }
	logs := []store.GatewayLog{
		{Provider: "openai", Model: "gpt-4o-mini", ModelType: "chat", Path: "chat/completions", StatusCode: 200, Success: true, TokensIn: 100, TokensOut: 10, EventID: "row-1",
			CostNanoUSD: cost(2_000_000), Duration: 1500 * time.Millisecond, Metadata: json.RawMessage(`{"team":"blue","n":7}`), UserAgent: "python", Authenticated: true,
			RequestContentType: "application/json", ResponseContentType: "application/json", Request: []byte(`{"q":1}`), Response: []byte(`{"a":1}`), RequestSize: 7, ResponseSize: 7},
		{Provider: "anthropic", Model: "claude", ModelType: "chat", Path: "v1/messages", StatusCode: 200, Success: true, Cached: true, TokensIn: 50, TokensOut: 5, EventID: "row-2",
			CostNanoUSD: cost(0), Duration: 20 * time.Millisecond, Metadata: json.RawMessage(`{"team":"red"}`), DLPAction: "FLAG"},
		{Provider: "openai", Model: "gpt-4.1", ModelType: "chat", Path: "chat/completions", RequestType: "compat", StatusCode: 429, EventID: "row-3", Duration: 300 * time.Millisecond},
		{Provider: "openai", Model: "embed", ModelType: "embeddings", Path: "embeddings", StatusCode: 200, Success: true, TokensIn: 1000, EventID: "row-4",
			CostNanoUSD: cost(500), Duration: 90 * time.Millisecond, Request: []byte(strings.Repeat("é", 5000)), Response: []byte{0xff, 0xfe}},
	}
	for i := range logs {
		logs[i].ID, logs[i].Account, logs[i].Gateway = uuid.Must(uuid.NewV7()), "acc", "gw"
		logs[i].CreatedAt = start.Add(time.Duration(i) * time.Minute)
	}
	if err := d.db.InsertGatewayLogs(context.Background(), logs); err != nil {
		d.t.Fatal(err)
	}
	return logs
}

func rowsOf(t *testing.T, a said) string {
	t.Helper()
	var events []string
	for _, r := range into[[]logResult](t, a.Result) {
		events = append(events, strings.TrimPrefix(r.EventID, "row-"))
	}
	return strings.Join(events, "")
}
