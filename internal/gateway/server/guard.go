package server

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// The actions of a policy, the hardest last. MASK is this server's extension.
const (
	actFlag  = "FLAG"
	actMask  = "MASK"
	actBlock = "BLOCK"
)

// guard is what a gateway looks for in requests and answers.
//
// Cloudflare looks for entries of data loss prevention, and asks a model about categories of harm. Here a profile is the
// name of a built-in pattern, of a group of them (pii, secrets) or of one of the settings' own rules. Of the
// guardrails' categories only S7, privacy, can be found by patterns: it is pii and secrets together. The others would need
// a model that this server doesn't run, which is as if Cloudflare's were down: a category to be blocked answers every
// request with 503 and code 7013, one to be flagged does nothing. A profile that doesn't exist is treated alike.
type guard struct {
	request, answer []policy
	blind           bool // something that is to be blocked or masked can't be looked for
}

// policy is one thing to look for and what to do about it.
type policy struct {
	id         string
	action     string
	profile    string
	patterns   []*pattern
	guardrails bool // answers in their codes
}

const privacy = "S7"

func newGuard(s *Settings) *guard {
	g := &guard{}
	rules := map[string]*pattern{}
	for _, r := range s.Rules {
		if re, err := regexp.Compile(r.Pattern); err == nil { // the settings were checked
			rules[r.Name] = &pattern{name: r.Name, re: re}
		}
	}
	for _, p := range policiesOf(s.DLP) {
		for _, profile := range p.Profiles {
			found := builtinPatterns(profile)
			if rule := rules[profile]; rule != nil {
				found = []*pattern{rule}
			}
			if found == nil {
				g.blind = g.blind || p.Action != actFlag
				continue
			}
			one := policy{id: p.ID, action: p.Action, profile: profile, patterns: found}
			if slices.Contains(p.Check, "REQUEST") {
				g.request = append(g.request, one)
			}
			if slices.Contains(p.Check, "RESPONSE") {
				g.answer = append(g.answer, one)
			}
		}
	}
	if s.Guardrails != nil {
		g.request = g.guardrails(g.request, s.Guardrails.Prompt)
		g.answer = g.guardrails(g.answer, s.Guardrails.Response)
	}
	return g
}

// policiesOf reads both forms of the setting.
func policiesOf(d *DLP) []DLPPolicy {
	if d == nil || !d.Enabled {
		return nil
	}
	var all []DLPPolicy
	if d.Action != "" && len(d.Profiles) > 0 {
		all = append(all, DLPPolicy{ID: "default", Enabled: true, Action: d.Action, Check: []string{"REQUEST", "RESPONSE"}, Profiles: d.Profiles})
	}
	for _, p := range d.Policies {
		if p.Enabled {
			all = append(all, p)
		}
	}
	return all
}

func (g *guard) guardrails(to []policy, categories map[string]string) []policy {
	for category, action := range categories {
		if category != privacy {
			g.blind = g.blind || action == actBlock
			continue
		}
		to = append(to, policy{id: "guardrails", action: action, profile: privacy, guardrails: true,
			patterns: append(builtinPatterns("pii"), builtinPatterns("secrets")...)})
	}
	return to
}

func (g *guard) checksAnswers() bool { return len(g.answer) > 0 }

// findings are what policies found in one request, for its header and its log.
type findings struct {
	action string // the hardest; "" when nothing was found
	list   []finding
}

type finding struct {
	Profile   findingProfile `json:"profile"`
	PolicyIDs []string       `json:"policy_ids"`
	Check     string         `json:"check"`
}

type findingProfile struct {
	Context   struct{} `json:"context"`
	EntryIDs  []string `json:"entry_ids"`
	ProfileID string   `json:"profile_id"`
}

func (f *findings) header() string {
	raw, _ := json.Marshal(struct { // strings only: it always encodes
		Findings []finding `json:"findings"`
		Action   string    `json:"action"`
	}{f.list, f.action})
	return string(raw)
}

// verdict is what policies make of a body.
type verdict struct {
	action     string // the hardest of what was found
	guardrails bool   // it is theirs
	masked     []byte // the body with what is to be masked or blocked taken out; nil when nothing is
}

var hardness = map[string]int{"": 0, actFlag: 1, actMask: 2, actBlock: 3}

// inspect looks through a body. In JSON it looks into the strings that are values, in a stream of events into their
// JSON, where a text may be spread over many events; anything else is taken as text.
func (f *findings) inspect(policies []policy, check string, body []byte, events bool) (v verdict) {
	if len(policies) == 0 || len(body) == 0 {
		return v
	}
	doc := parseDocument(body, events)
	for i := range policies {
		p := &policies[i]
		entries := []string{}
		for _, pattern := range p.patterns {
			if doc.find(pattern, p.action != actFlag) {
				entries = append(entries, pattern.name)
			}
		}
		if len(entries) == 0 {
			continue
		}
		if hardness[p.action] > hardness[v.action] {
			v.action, v.guardrails = p.action, p.guardrails
		}
		f.list = append(f.list, finding{findingProfile{EntryIDs: entries, ProfileID: p.profile}, []string{p.id}, check})
	}
	if hardness[v.action] > hardness[f.action] {
		f.action = v.action
	}
	if v.action == actMask || v.action == actBlock {
		v.masked = doc.masked()
	}
	return v
}

// checkRequest looks through a step's body, which it may change. What is refused here ends the whole chain: a request
// that must not leave must not leave by another step.
func (c *passage) checkRequest(st *step) *refusal {
	g := c.view.guard
	if g.blind {
		return &refusal{status: http.StatusServiceUnavailable, code: aigScanner, message: "a check that this gateway is set to make can't be made here", final: true}
	}
	c.dlp = findings{} // of an earlier step's
	v := c.dlp.inspect(g.request, "REQUEST", st.body, false)
	if v.masked != nil {
		st.body = v.masked // what goes on, and what the log keeps of a request that doesn't
	}
	if v.action != actBlock {
		return nil
	}
	if v.guardrails {
		return &refusal{status: http.StatusFailedDependency, code: aigGuardedIn, message: "prompt blocked due to security configurations", final: true}
	}
	return &refusal{status: http.StatusBadRequest, code: aigBlockedIn, message: "request blocked due to data loss prevention policies", final: true}
}

// relayChecked holds an answer back until it is all there and was looked through. It closes nothing.
func (c *passage) relayChecked(st *step, at int, a *upstreamAnswer, k *capture) {
	body, ok := c.readChecked(a)
	if !ok {
		if c.ctx.Err() != nil {
			c.failed = st
			c.gone()
			return
		}
		c.failed = st
		c.refuseChecked(&refusal{status: http.StatusServiceUnavailable, code: aigScanner, message: "the answer can't be checked: it is broken, too large or compressed"})
		return
	}
	var v verdict
	if checkable(a.Header) {
		v = c.dlp.inspect(c.view.guard.answer, "RESPONSE", body, k.events)
	}
	if v.action == actBlock {
		c.failed = st
		f := &refusal{status: http.StatusBadRequest, code: aigBlockedOut, message: "response blocked due to data loss prevention policies"}
		if v.guardrails {
			f = &refusal{status: http.StatusFailedDependency, code: aigGuardedOut, message: "response blocked due to security configurations"}
		}
		c.refuseChecked(f)
		return
	}
	if v.masked != nil {
		body = v.masked
	}
	if c.dlp.action != "" {
		c.w.Header()["Cf-Aig-Dlp"] = []string{c.dlp.header()}
	}
	k.body, k.size = body, int64(len(body))
	c.giveWhole(a.StatusCode, body)
	c.finish(st, at, a.StatusCode, a.Header, k, true)
}

// refuseChecked takes the provider's headers back.
func (c *passage) refuseChecked(f *refusal) {
	clear(c.w.Header())
	c.refuse(f)
}

// readChecked reads an answer to its end, uncompressed.
func (c *passage) readChecked(a *upstreamAnswer) ([]byte, bool) {
	body, err := readLimited(a, maxCapture)
	if err != nil {
		return nil, false
	}
	switch coding := a.Header.Get("Content-Encoding"); strings.ToLower(coding) {
	case "", "identity":
		return body, true
	case "gzip":
		body, ok := gunzip(body)
		c.w.Header().Del("Content-Encoding")
		a.Header.Del("Content-Encoding")
		return body, ok
	}
	return nil, false
}

// checkable reports whether an answer is text.
func checkable(h http.Header) bool {
	kind, _, _ := strings.Cut(strings.ToLower(h.Get("Content-Type")), ";")
	kind = strings.TrimSpace(kind)
	return kind == "" || strings.HasPrefix(kind, "text/") || strings.HasSuffix(kind, "json") || strings.HasSuffix(kind, "xml") ||
		kind == "application/x-www-form-urlencoded"
}
