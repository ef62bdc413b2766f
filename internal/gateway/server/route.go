package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// route is a dynamic route, ready to be walked: a graph without cycles whose every path ends. It is never changed, so
// many requests walk it at once.
//
// Decisions of 2026-11-21, where Cloudflare is silent. The first good answer ends a walk, so the edge success of a model must
// lead to an end. Windows are seconds. A label of a percentage element says its share; labels are laid end to end in the order of
// their names. A request takes the same branch each time it is made, so that a rerun of a batch finds its answers in the cache.
type route struct {
	start string
	nodes map[string]*routeNode
}

// routeNode is one element. What its type doesn't use is zero.
type routeNode struct {
	kind      string
	outputs   map[string]string // label to the id of an element
	condition condition
	shares    []routeShare
	limit     routeLimit
	limitKey  routePath
	call      routeCall
}

// routeShare is an output of a percentage element: up to so many hundredths of all, counted from the shares before.
type routeShare struct {
	upTo float64
	to   string
}

// routeCall is a model to try.
type routeCall struct {
	Element         string // id of the element, for traces
	Provider, Model string
	Timeout         time.Duration // to the first byte; 0 is none
	Retries         int           // beyond the first attempt

	// The limits of cost that were passed on the way from the element where the walk last began: what the call
	// costs is to be booked on them, and on those of the calls before it in the same walk.
	Booked []routeLimit
}

// routeLimit is a rate element with the caller's part of its key.
type routeLimit struct {
	Element string
	Key     string // value of the element's key in this request; "" when the request doesn't have it
	Cost    bool   // counts US dollars, else requests
	Limit   float64
	Window  time.Duration
	Sliding bool
}

// routeInput is what a walk may look at. It belongs to one request.
type routeInput struct {
	Body     json.RawMessage
	Header   map[string][]string // canonical names, without credentials
	Metadata map[string]any      // flat
	Key      string              // decides percentages, see [routeKey]

	// Allow takes a request's place under a limit of requests, and asks whether one of cost leaves room. It may be nil for a
	// route without rate elements.
	Allow func(ctx context.Context, l routeLimit) (bool, error)

	body    any // decoded when a condition first asks
	decoded bool
}

// routeKey returns what percentages are drawn by: the caller's own id of the request, else what it says and asks. Metadata alone won't do, because
// all requests of a batch may have the same.
func routeKey(eventID string, metadata, body json.RawMessage) string {
	if eventID != "" {
		return "event\x00" + eventID
	}
	h := sha256.New()
	h.Write(place(string(metadata)))
	h.Write(body)
	return "body\x00" + string(h.Sum(nil))
}

// next walks from an element, or from the start when at is "", to the next model. It returns the call, where to go on when the model
// fails, and where when it answers. Without a call the walk is at its end.
func (r *route) next(ctx context.Context, at string, in *routeInput) (call *routeCall, success, fallback string, err error) {
	if at == "" {
		at = r.start
	}
	var booked []routeLimit
	for range len(r.nodes) { // no cycles: a walk sees an element once
		n := r.nodes[at]
		if n == nil {
			return nil, "", "", fmt.Errorf("server: walk a route: no element %q", at)
		}
		switch n.kind {
		case "end":
			return nil, "", "", nil
		case "model":
			c := n.call
			c.Booked = booked
			return &c, n.outputs["success"], n.outputs["fallback"], nil
		case "start":
			at = n.outputs["next"]
		case "conditional":
			at = n.outputs[strconv.FormatBool(n.condition(in))]
		case "percentage":
			at = n.draw(at, in.Key)
		case "rate":
			limit := n.limit
			limit.Key = n.limitKey.text(in)
			ok := true
			if in.Allow != nil {
				if ok, err = in.Allow(ctx, limit); err != nil {
					return nil, "", "", err
				}
			}
			if !ok {
				at = n.outputs["fallback"]
				continue
			}
			if limit.Cost {
				booked = append(booked, limit)
			}
			at = n.outputs["success"]
		}
	}
	return nil, "", "", fmt.Errorf("server: walk a route: no end from element %q", at)
}

// draw picks an output by the hash of the request's key and the element's id: two elements draw independently.
func (n *routeNode) draw(id, key string) string {
	sum := sha256.Sum256(place(id, key))
	at := float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53) * 100
	for _, s := range n.shares {
		if at < s.upTo {
			return s.to
		}
	}
	if to, ok := n.outputs["else"]; ok {
		return to
	}
	return n.shares[len(n.shares)-1].to // they add up to 100
}

// Bounds of a graph.
const (
	maxElements     = 200
	maxShares       = 5
	maxRouteTimeout = 10 * time.Minute
)

// rawElement is an element as it is saved. What else it holds, such as its place on a canvas, is kept and ignored.
type rawElement struct {
	ID      string `json:"id"`
	Type    string `json:"type"`
	Outputs map[string]struct {
		ElementID string `json:"elementId"`
	} `json:"outputs"`
	Properties json.RawMessage `json:"properties"`
}

// parseRoute reads the elements of a route in either of Cloudflare's two forms, that of its guide and that of its API description: they name
// the condition and the limit differently. It returns every problem, and no route when there is one.
func parseRoute(elements json.RawMessage) (*route, []Problem) {
	var raw []rawElement
	if err := json.Unmarshal(elements, &raw); err != nil || len(raw) == 0 {
		return nil, []Problem{{"elements", "must be an array of elements"}}
	}
	if len(raw) > maxElements {
		return nil, []Problem{{"elements", fmt.Sprintf("may be %d at most", maxElements)}}
	}
	r := &route{nodes: make(map[string]*routeNode, len(raw))}
	var found []Problem
	for i := range raw {
		e := &raw[i]
		at := fmt.Sprintf("elements[%d]", i)
		problem := func(field, format string, args ...any) {
			found = append(found, Problem{at + field, fmt.Sprintf(format, args...)})
		}
		if e.ID == "" || len(e.ID) > 100 {
			problem(".id", "must have 1 to 100 bytes")
			continue
		}
		if r.nodes[e.ID] != nil {
			problem(".id", "is another element's as well")
			continue
		}
		n := &routeNode{kind: e.Type, outputs: make(map[string]string, len(e.Outputs))}
		for label, o := range e.Outputs {
			n.outputs[label] = o.ElementID
		}
		r.nodes[e.ID] = n
		n.read(e, problem)
		if n.kind != "start" {
			continue
		}
		if r.start != "" {
			problem("", "is a second start")
		}
		r.start = e.ID
	}
	if r.start == "" {
		found = append(found, Problem{"elements", "have no start"})
	}
	if found = append(found, r.checkEdges(raw)...); len(found) == 0 {
		found = r.checkPaths()
	}
	if len(found) > 0 {
		return nil, found
	}
	return r, nil
}

// routeOutputs are the edges that an element of each type must have, and has no others.
var routeOutputs = map[string][]string{
	"start": {"next"}, "conditional": {"true", "false"}, "rate": {"success", "fallback"}, "model": {"success", "fallback"},
}

// read fills in what the element's type says.
func (n *routeNode) read(e *rawElement, problem problemFunc) {
	if n.kind == "rate_limit" { // the name in the guide
		n.kind = "rate"
	}
	switch n.kind {
	case "start":
	case "end":
		n.outputs = nil // the description wants a map there, and the guide none
	case "conditional":
		n.readCondition(e.Properties, problem)
	case "percentage":
		n.readShares(problem)
	case "rate":
		n.readLimit(e, problem)
	case "model":
		n.readCall(e, problem)
	default:
		problem(".type", "must be start, conditional, percentage, rate, rate_limit, model or end")
	}
	for _, label := range routeOutputs[n.kind] {
		if _, ok := n.outputs[label]; !ok {
			problem(".outputs."+label, "is required")
		}
	}
	if want := routeOutputs[n.kind]; want != nil {
		for _, label := range slices.Sorted(maps.Keys(n.outputs)) {
			if !slices.Contains(want, label) {
				problem(".outputs", "has a label that is not %s", strings.Join(want, " or "))
			}
		}
	}
}

func readProperties[T any](raw json.RawMessage, problem problemFunc) (v T) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if len(raw) == 0 {
		problem(".properties", "is required")
	} else if err := d.Decode(&v); err != nil {
		problem(".properties", "%s", decodeProblem("", err))
	}
	return v
}

func (n *routeNode) readCondition(raw json.RawMessage, problem problemFunc) {
	p := readProperties[struct {
		Condition  json.RawMessage `json:"condition"`
		Conditions json.RawMessage `json:"conditions"`
	}](raw, problem)
	if p.Condition == nil {
		p.Condition = p.Conditions
	}
	c, err := parseCondition(p.Condition)
	if err != nil {
		problem(".properties.condition", "%v", err)
	}
	n.condition = c
}

func (n *routeNode) readShares(problem problemFunc) {
	sum := 0.0
	for _, label := range slices.Sorted(maps.Keys(n.outputs)) {
		if label == "else" {
			continue
		}
		number, ok := strings.CutSuffix(label, "%")
		share, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if !ok || err != nil || !(share > 0 && share <= 100) {
			problem(".outputs", "has a label that is neither else nor a percentage such as 10%%")
			continue
		}
		sum += share
		n.shares = append(n.shares, routeShare{sum, n.outputs[label]})
	}
	_, rest := n.outputs["else"]
	switch {
	case len(n.shares) == 0 || len(n.shares) > maxShares:
		problem(".outputs", "must have 1 to %d percentages", maxShares)
	case sum > 100+1e-9:
		problem(".outputs", "add up to more than 100%%")
	case sum < 100-1e-9 && !rest:
		problem(".outputs.else", "is required, because the percentages add up to less than 100%%")
	}
}

func (n *routeNode) readLimit(e *rawElement, problem problemFunc) {
	p := readProperties[struct {
		LimitType string  `json:"limitType"`
		Key       string  `json:"key"`
		Limit     float64 `json:"limit"`
		Interval  float64 `json:"interval"`
		Window    float64 `json:"window"`
		Technique string  `json:"technique"`
	}](e.Properties, problem)
	if p.Window == 0 {
		p.Window = p.Interval
	}
	oneOf(problem, ".properties.limitType", &p.LimitType, "count", "cost")
	if p.Technique != "" {
		oneOf(problem, ".properties.technique", &p.Technique, "fixed", "sliding")
	}
	if !(p.Limit > 0 && p.Limit <= 1e12) {
		problem(".properties.limit", "must be a positive number")
	}
	if !(p.Window >= 1 && p.Window <= 366*24*3600) {
		problem(".properties.window", "must be from one second to a year, in seconds")
	}
	path, err := parsePath(p.Key)
	if err != nil {
		problem(".properties.key", "%v", err)
	}
	n.limitKey = path
	n.limit = routeLimit{Element: e.ID, Cost: p.LimitType == "cost", Limit: p.Limit, Sliding: p.Technique == "sliding",
		Window: time.Duration(min(p.Window, 1e9) * float64(time.Second))}
}

func (n *routeNode) readCall(e *rawElement, problem problemFunc) {
	p := readProperties[struct {
		Provider string  `json:"provider"`
		Model    string  `json:"model"`
		Timeout  float64 `json:"timeout"`
		Retries  float64 `json:"retries"`
	}](e.Properties, problem)
	if !knownProvider(p.Provider) {
		problem(".properties.provider", "is not a provider of this server")
	}
	if p.Model == "" || len(p.Model) > 200 {
		problem(".properties.model", "must have 1 to 200 bytes")
	}
	if !(p.Timeout >= 0 && p.Timeout <= float64(maxRouteTimeout.Milliseconds())) {
		problem(".properties.timeout", "must be from 0 to %d, in milliseconds", maxRouteTimeout.Milliseconds())
		p.Timeout = 0
	}
	if !(p.Retries >= 0 && p.Retries <= 5) || p.Retries != math.Trunc(p.Retries) {
		problem(".properties.retries", "must be from 0 to 5")
		p.Retries = 0
	}
	n.call = routeCall{Element: e.ID, Provider: p.Provider, Model: p.Model, Timeout: time.Duration(p.Timeout * float64(time.Millisecond)),
		Retries: int(p.Retries)}
}

// checkEdges tests that each edge leads somewhere.
func (r *route) checkEdges(raw []rawElement) (found []Problem) {
	for i := range raw {
		n := r.nodes[raw[i].ID]
		if n == nil {
			continue
		}
		for _, label := range slices.Sorted(maps.Keys(n.outputs)) {
			field := fmt.Sprintf("elements[%d].outputs.%s.elementId", i, label)
			to := r.nodes[n.outputs[label]]
			switch {
			case to == nil:
				found = append(found, Problem{field, "names no element"})
			case to.kind == "start":
				found = append(found, Problem{field, "leads back to the start"})
			case n.kind == "model" && label == "success" && to.kind != "end":
				found = append(found, Problem{field, "must lead to an end: the first good answer is the route's"})
			}
		}
	}
	return found
}

// checkPaths tests that no path comes back, and that some path asks a model.
func (r *route) checkPaths() []Problem {
	const open, done = 1, 2
	state := make(map[string]int, len(r.nodes))
	models := 0
	var visit func(id string) bool
	visit = func(id string) bool {
		switch state[id] {
		case open:
			return false
		case done:
			return true
		}
		state[id] = open
		n := r.nodes[id]
		if n.kind == "model" {
			models++
		}
		for _, to := range n.outputs {
			if !visit(to) {
				return false
			}
		}
		state[id] = done
		return true
	}
	switch {
	case !visit(r.start):
		return []Problem{{"elements", "form a cycle; a model is tried again by its retries"}}
	case models == 0:
		return []Problem{{"elements", "have no model that can be reached from the start"}}
	}
	return nil
}
