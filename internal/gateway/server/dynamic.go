package server

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
)

// dynamicPrefix begins the models that are routes: dynamic/NAME.
const dynamicPrefix = "dynamic/"

// routed is a walk along a dynamic route: a chain whose next step is found when the one before has failed.
type routed struct {
	*route
	name     string
	in       routeInput
	at       string // the element to go on from; "" is the start
	ended    bool
	limited  bool // a limit of the route had no room
	model    span // where the body names the model
	endpoint string
}

// dynamic makes a request one for a route. Cloudflare's routes need an authenticated caller and stored keys, and so do
// these: a caller's credential would go to whatever provider the route leads to.
func (c *passage) dynamic(name string) *refusal {
	r, ok := c.view.routes[name]
	switch {
	case !c.caller.authenticated:
		return &refusal{status: http.StatusUnauthorized, code: aigToken, message: "unauthorized: a dynamic route needs the gateway's token"}
	case !ok:
		return unroutable("the route " + printable(name) + " is not deployed at this gateway")
	}
	at, _ := member(c.body, "model")
	header := outbound(c.r.Header)
	for _, slot := range slots {
		delete(header, slot)
	}
	c.route = &routed{route: r, name: name, model: at, endpoint: c.steps[0].endpoint}
	c.route.in = routeInput{Body: c.body, Header: header, Key: routeKey(c.opts.eventID, c.opts.metadata, c.body), Allow: c.allowRoute()}
	if c.opts.metadata != nil {
		if err := json.Unmarshal(c.opts.metadata, &c.route.in.Metadata); err != nil {
			return badRequest("the header cf-aig-metadata must be a JSON object")
		}
	}
	c.steps = nil
	return nil
}

// routed returns the next step of the route; nil at its end.
func (c *passage) routed() *step {
	r := c.route
	if r.ended {
		return nil
	}
	call, _, fallback, err := r.next(c.ctx, r.at, &r.in)
	if err != nil || call == nil {
		r.ended = true
		switch {
		case err != nil:
			c.s.o.Log.ErrorContext(c.ctx, "route can't be walked", "account", c.view.account, "gateway", c.view.id, "error", err)
			c.fault = unroutable("the route can't be followed")
		case r.limited:
			c.fault = &refusal{status: http.StatusTooManyRequests, code: aigRate, message: "a limit of the route is reached"}
		case len(c.steps) == 0:
			c.fault = unroutable("the route ended without a model")
		}
		return nil
	}
	r.at = fallback
	st := step{provider: call.Provider, endpoint: r.endpoint, method: http.MethodPost, body: c.body, caller: r.in.Header, opts: c.opts}
	st.opts.attempts = min(call.Retries+1, maxAttempts)
	st.opts.timeout = call.Timeout
	if chat, f := c.chatEndpoint(call.Provider); f != nil {
		st.fault = f
	} else {
		st.aim(call.Provider, chat, call.Model, r.model)
	}
	for _, l := range call.Booked {
		st.booked = append(st.booked, booking{c.route.key(c, l), l.Window})
	}
	c.steps = append(c.steps, st)
	return &c.steps[len(c.steps)-1]
}

// last reports whether nothing comes after the step under way.
func (r *routed) last() bool {
	n := r.nodes[r.at]
	return n == nil || n.kind == "end"
}

// decorate tells which model answered.
func (r *routed) decorate(h http.Header, st *step) {
	h["Cf-Aig-Model"] = []string{st.model}
	h["Cf-Aig-Provider"] = []string{st.provider}
}

// key names the window of one of the route's limits.
func (r *routed) key(c *passage, l routeLimit) string {
	return strings.Join([]string{"gateway-route", c.view.account, c.view.id, r.name, l.Element, l.Key}, "\x00")
}

// allowRoute asks the limits of a route's rate elements.
func (c *passage) allowRoute() func(context.Context, routeLimit) (bool, error) {
	return func(ctx context.Context, l routeLimit) (bool, error) {
		key := c.route.key(c, l)
		ok := true
		if l.Cost {
			ok = c.s.spending.room(key, l.Limit, l.Window)
		} else if c.s.o.Windows != nil {
			ok = c.window(key, int64(l.Limit), l.Window, l.Sliding, "") == nil
		}
		c.route.limited = c.route.limited || !ok
		return ok, nil
	}
}
