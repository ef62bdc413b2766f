package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Settings is a gateway's configuration in Cloudflare's field names, as it is stored and as the management API shows it.
// The name and the dates are the row's.
type Settings struct {
	CacheInvalidateOnUpdate bool    `json:"cache_invalidate_on_update"`
	CacheTTL                *int64  `json:"cache_ttl"` // seconds; nil or 0: no caching
	CollectLogs             bool    `json:"collect_logs"`
	RateLimitingInterval    *int64  `json:"rate_limiting_interval"`  // seconds; nil or 0: no limit
	RateLimitingLimit       *int64  `json:"rate_limiting_limit"`     // requests; nil or 0: no limit
	RateLimitingTechnique   *string `json:"rate_limiting_technique"` // fixed (also when nil) or sliding

	Authentication    bool `json:"authentication"`
	BYOKOnly          bool `json:"byok_only"`          // here always so: this server bills nothing
	ZDR               bool `json:"zdr"`                // kept only: it is a matter of Cloudflare's own billing
	LogClassification bool `json:"log_classification"` // kept only
	Logpush           bool `json:"logpush"`            // always false

	RetryMaxAttempts *int    `json:"retry_max_attempts"` // 1 to 5; nil: no retry
	RetryDelay       *int    `json:"retry_delay"`        // milliseconds, at most 5000
	RetryBackoff     *string `json:"retry_backoff"`      // constant, linear or exponential

	LogManagement         *int64  `json:"log_management"`          // how many requests the log holds; nil: no bound
	LogManagementStrategy *string `json:"log_management_strategy"` // STOP_INSERTING or DELETE_OLDEST (also when nil)
	LogpushPublicKey      *string `json:"logpush_public_key"`      // kept only
	StoreID               *string `json:"store_id"`                // kept only: secrets are in this server's own store
	WorkersAIBillingMode  string  `json:"workers_ai_billing_mode"` // kept only

	DLP         *DLP            `json:"dlp"`
	Guardrails  *Guardrails     `json:"guardrails"`
	OTel        []OTel          `json:"otel"` // always empty
	SpendLimits *SpendLimits    `json:"spend_limits"`
	Stripe      json.RawMessage `json:"stripe"` // always null

	Rules []Rule `json:"rules"` // this server's extension: what DLP profiles look for
}

// Rule is a named regular expression, in Go's syntax. A DLP profile names it.
type Rule struct {
	Name    string `json:"name"`
	Pattern string `json:"pattern"`
}

// DLP says what to look for and what to do about it. The old form, with Action and Profiles, is one policy for
// requests and answers.
type DLP struct {
	Enabled  bool        `json:"enabled"`
	Action   string      `json:"action,omitempty"`
	Profiles []string    `json:"profiles,omitempty"`
	Policies []DLPPolicy `json:"policies,omitempty"`
}

// DLPPolicy is one policy of [DLP].
type DLPPolicy struct {
	ID       string   `json:"id"`
	Enabled  bool     `json:"enabled"`
	Action   string   `json:"action"`   // FLAG, BLOCK, or MASK, which is this server's extension
	Check    []string `json:"check"`    // REQUEST, RESPONSE
	Profiles []string `json:"profiles"` // names of rules, or of built-in profiles such as pii
}

// Guardrails maps categories of harm, S1 to S13 and P1, to FLAG or BLOCK.
type Guardrails struct {
	Prompt   map[string]string `json:"prompt"`
	Response map[string]string `json:"response"`
}

// OTel is a collector of traces. The type is here to read what clients send.
type OTel struct {
	URL           string            `json:"url"`
	Headers       map[string]string `json:"headers"`
	Authorization string            `json:"authorization,omitempty"`
	ContentType   string            `json:"content_type,omitempty"`
}

// SpendLimits bounds what a gateway's requests may cost. All rules must leave room.
type SpendLimits struct {
	Enabled bool        `json:"enabled"`
	Rules   []SpendRule `json:"rules"` // at most 20
}

// SpendRule is one of [SpendLimits].
type SpendRule struct {
	ID        string                `json:"id,omitempty"`
	Enabled   *bool                 `json:"enabled,omitempty"` // nil: yes
	LimitType string                `json:"limitType"`         // cost
	Limit     float64               `json:"limit"`             // US dollars
	Window    int64                 `json:"window"`            // seconds; Cloudflare doesn't say the unit, but counts intervals so
	Technique string                `json:"technique"`         // fixed or sliding
	Provider  *SpendScope           `json:"provider,omitempty"`
	Model     *SpendScope           `json:"model,omitempty"`
	Metadata  map[string]SpendScope `json:"metadata,omitempty"`
}

// SpendScope narrows a rule to some values, or counts each value for itself.
type SpendScope struct {
	Mode   string   `json:"mode"` // filter or partition
	Values []string `json:"values,omitempty"`
}

// Problem is what is wrong with one field of a request. Neither part repeats a value, which may be a secret.
type Problem struct{ Field, Message string }

// DefaultSettings are those of the gateway "default", which makes itself: authentication and logs on, no cache, no limit.
func DefaultSettings() Settings {
	return Settings{Authentication: true, CollectLogs: true, CacheTTL: new(int64(0)), RateLimitingInterval: new(int64(0)),
		RateLimitingLimit: new(int64(0)), WorkersAIBillingMode: "postpaid"}
}

// What clients send back because they got it.
var readOnlySettings = []string{"id", "created_at", "modified_at", "is_default", "account_id", "account_tag", "internal_id"}

var requiredSettings = []string{"cache_invalidate_on_update", "cache_ttl", "collect_logs", "rate_limiting_interval", "rate_limiting_limit"}

// ParseSettings reads a request to create a gateway, or with old, to replace its settings. It returns every problem.
//
// An optional field that a request leaves out keeps its old value, or at first its default, which is authentication on:
// Cloudflare's documentation is silent, and a client that doesn't know a field must not open a gateway by leaving it out.
func ParseSettings(raw []byte, old *Settings) (Settings, []Problem) {
	base := DefaultSettings()
	if old != nil {
		base = *old
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil || fields == nil {
		return base, []Problem{{"body", "must be a JSON object"}}
	}
	var found []Problem
	for _, name := range requiredSettings {
		if _, ok := fields[name]; !ok {
			found = append(found, Problem{name, "is required"})
		}
	}
	merged := base.fields()
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		_, known := merged[name]
		switch {
		case slices.Contains(readOnlySettings, name):
		case !known:
			found = append(found, Problem{name, "is not known"})
		default:
			p := checkField[Settings](name, fields[name])
			if required := slices.Contains([]string{"cache_invalidate_on_update", "collect_logs"}, name); required && string(fields[name]) == "null" {
				p = "must be true or false"
			}
			if p != "" {
				found = append(found, Problem{name, p})
				continue
			}
			merged[name] = fields[name]
		}
	}
	b, err := json.Marshal(merged)
	if err != nil {
		return base, append(found, Problem{"body", "can't be read"})
	}
	s, err := readSettings(b)
	if err != nil {
		return base, append(found, Problem{"body", "can't be read"})
	}
	return s, append(found, s.check()...)
}

// readSettings reads what was stored. A field that the stored form doesn't have yet takes its default.
func readSettings(raw json.RawMessage) (Settings, error) {
	s := DefaultSettings()
	if err := json.Unmarshal(raw, &s); err != nil {
		return Settings{}, fmt.Errorf("server: read a gateway's settings: %w", err)
	}
	return s, nil
}

// fields returns each setting under its name.
func (s *Settings) fields() map[string]json.RawMessage {
	var m map[string]json.RawMessage
	b, err := json.Marshal(s)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil {
		panic("server: settings are not JSON: " + err.Error()) // plain fields, and raw ones that were read from JSON
	}
	return m
}

// checkField looks at one field of a T alone, so that each problem has its name.
func checkField[T any](name string, value json.RawMessage) string {
	var v T
	member, err := json.Marshal(map[string]json.RawMessage{name: value})
	if err != nil {
		return "can't be read"
	}
	d := json.NewDecoder(bytes.NewReader(member))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return decodeProblem(name, err)
	}
	return ""
}

// decodeProblem says what is wrong in JSON without repeating a value of it.
func decodeProblem(field string, err error) string {
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		kind := t.Type.Kind().String()
		switch kind {
		case "int", "int64":
			kind = "an integer"
		case "float64":
			kind = "a number"
		case "bool":
			kind = "true or false"
		case "string":
			kind = "a string"
		case "slice":
			kind = "an array"
		default:
			kind = "an object"
		}
		if _, inner, ok := strings.Cut(t.Field, "."); ok {
			return inner + " must be " + kind
		}
		return "must be " + kind
	}
	if _, name, ok := strings.Cut(err.Error(), "json: unknown field "); ok {
		if name == strconv.Quote(field) {
			return "is not known"
		}
		return "has the unknown field " + name
	}
	return "can't be read"
}

const maxCacheTTL = 31 * 24 * 3600 // a month

// check tests values and not what goes together: limits may be half set, and are then off.
func (s *Settings) check() []Problem {
	var found []Problem
	problem := func(field, format string, args ...any) {
		found = append(found, Problem{field, fmt.Sprintf(format, args...)})
	}
	between(problem, "cache_ttl", s.CacheTTL, 0, maxCacheTTL)
	between(problem, "rate_limiting_interval", s.RateLimitingInterval, 0, 366*24*3600)
	between(problem, "rate_limiting_limit", s.RateLimitingLimit, 0, 1e12)
	between(problem, "retry_max_attempts", s.RetryMaxAttempts, 1, 5)
	between(problem, "retry_delay", s.RetryDelay, 0, 5000)
	between(problem, "log_management", s.LogManagement, 10_000, 10_000_000)
	oneOf(problem, "rate_limiting_technique", s.RateLimitingTechnique, "fixed", "sliding")
	oneOf(problem, "retry_backoff", s.RetryBackoff, "constant", "linear", "exponential")
	oneOf(problem, "log_management_strategy", s.LogManagementStrategy, "STOP_INSERTING", "DELETE_OLDEST")
	oneOf(problem, "workers_ai_billing_mode", &s.WorkersAIBillingMode, "postpaid", "unified")
	if s.Logpush {
		problem("logpush", "is not implemented by this server")
	}
	if len(s.OTel) > 0 {
		problem("otel", "is not implemented by this server")
	}
	if len(s.Stripe) > 0 && string(s.Stripe) != "null" {
		problem("stripe", "is not implemented by this server")
	}
	s.checkRules(problem)
	s.DLP.check(problem, s.Rules)
	s.Guardrails.check(problem)
	s.SpendLimits.check(problem)
	return found
}

type problemFunc func(field, format string, args ...any)

func between[T int | int64](problem problemFunc, field string, v *T, low, high T) {
	if v != nil && (*v < low || *v > high) {
		problem(field, "must be from %d to %d, or null", low, high)
	}
}

func oneOf(problem problemFunc, field string, v *string, allowed ...string) {
	if v != nil && !slices.Contains(allowed, *v) {
		problem(field, "must be %s", strings.Join(allowed, " or "))
	}
}

func (s *Settings) checkRules(problem problemFunc) {
	if len(s.Rules) > 100 {
		problem("rules", "may be 100 at most")
	}
	seen := map[string]bool{}
	for i, r := range s.Rules {
		at := fmt.Sprintf("rules[%d]", i)
		if r.Name == "" || len(r.Name) > 64 || seen[r.Name] {
			problem(at+".name", "must have 1 to 64 bytes, and be no other rule's")
		}
		seen[r.Name] = true
		if r.Pattern == "" || len(r.Pattern) > 1000 {
			problem(at+".pattern", "must have 1 to 1000 bytes")
		} else if re, err := regexp.Compile(r.Pattern); err != nil {
			problem(at+".pattern", "is not a regular expression in Go's syntax")
		} else if re.MatchString("") {
			problem(at+".pattern", "matches where nothing is")
		}
	}
}

// check refuses profiles that nothing is known of: what is to be blocked and can't be looked for would stop every request.
func (d *DLP) check(problem problemFunc, rules []Rule) {
	if d == nil {
		return
	}
	profiles := func(field string, names []string) {
		for _, name := range names {
			if builtinPatterns(name) == nil && !slices.ContainsFunc(rules, func(r Rule) bool { return r.Name == name }) {
				problem(field, "must name rules of this gateway or built-in profiles; Cloudflare's own are not known here")
				return
			}
		}
	}
	if d.Action != "" {
		oneOf(problem, "dlp.action", &d.Action, "FLAG", "BLOCK", "MASK")
	} else if len(d.Profiles) > 0 {
		problem("dlp.action", "is required with profiles")
	}
	profiles("dlp.profiles", d.Profiles)
	for i, p := range d.Policies {
		at := fmt.Sprintf("dlp.policies[%d]", i)
		oneOf(problem, at+".action", &p.Action, "FLAG", "BLOCK", "MASK")
		if len(p.Check) == 0 {
			problem(at+".check", "must name REQUEST or RESPONSE")
		}
		for _, c := range p.Check {
			oneOf(problem, at+".check", &c, "REQUEST", "RESPONSE")
		}
		if len(p.Profiles) == 0 {
			problem(at+".profiles", "must name a profile")
		}
		profiles(at+".profiles", p.Profiles)
	}
}

func (g *Guardrails) check(problem problemFunc) {
	if g == nil {
		return
	}
	for side, categories := range map[string]map[string]string{"guardrails.prompt": g.Prompt, "guardrails.response": g.Response} {
		for _, c := range slices.Sorted(maps.Keys(categories)) {
			if !guardCategory.MatchString(c) {
				problem(side, "has a category that is not S1 to S13 or P1")
			}
			action := categories[c]
			oneOf(problem, side, &action, "FLAG", "BLOCK")
		}
	}
}

var guardCategory = regexp.MustCompile(`^(S[1-9]|S1[0-3]|P1)$`)

func (l *SpendLimits) check(problem problemFunc) {
	if l == nil {
		return
	}
	if len(l.Rules) > 20 {
		problem("spend_limits.rules", "may be 20 at most")
	}
	for i, r := range l.Rules {
		at := fmt.Sprintf("spend_limits.rules[%d]", i)
		oneOf(problem, at+".limitType", &r.LimitType, "cost")
		oneOf(problem, at+".technique", &r.Technique, "fixed", "sliding")
		if !(r.Limit > 0 && r.Limit <= 1e9) {
			problem(at+".limit", "must be a positive amount in US dollars")
		}
		if r.Window < 1 || r.Window > 366*24*3600 {
			problem(at+".window", "must be from one second to a year, in seconds")
		}
		scopes := map[string]*SpendScope{at + ".provider": r.Provider, at + ".model": r.Model}
		for k, m := range r.Metadata {
			scopes[at+".metadata."+k] = &m
		}
		for _, field := range slices.Sorted(maps.Keys(scopes)) {
			scopes[field].check(problem, field)
		}
	}
}

func (c *SpendScope) check(problem problemFunc, field string) {
	if c == nil {
		return
	}
	oneOf(problem, field+".mode", &c.Mode, "filter", "partition")
	if c.Mode == "filter" && len(c.Values) == 0 {
		problem(field+".values", "must hold a value")
	}
}
