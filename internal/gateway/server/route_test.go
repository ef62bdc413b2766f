package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
)

// The two forms of one graph: free callers are limited to five requests a minute, the rest is split.
const (
	guideForm = `[
	{"id":"s","type":"start","outputs":{"next":{"elementId":"if"}}},
	{"id":"if","type":"conditional","properties":{"condition":{"metadata.plan":{"$eq":"free"}}},"outputs":{"true":{"elementId":"limit"},"false":{"elementId":"split"}}},
	{"id":"limit","type":"rate_limit","properties":{"limitType":"count","key":"metadata.user","limit":5,"interval":60,"technique":"sliding"},
		"outputs":{"success":{"elementId":"small"},"fallback":{"elementId":"e"}}},
	{"id":"split","type":"percentage","outputs":{"10%":{"elementId":"large"},"else":{"elementId":"small"}}},
	{"id":"large","type":"model","properties":{"provider":"anthropic","model":"claude","timeout":1500,"retries":2},
		"outputs":{"success":{"elementId":"e"},"fallback":{"elementId":"small"}}},
	{"id":"small","type":"model","properties":{"provider":"openai","model":"gpt-4o-mini","timeout":0,"retries":0},
		"outputs":{"success":{"elementId":"e"},"fallback":{"elementId":"e"}}},
	{"id":"e","type":"end"}]`
)

func apiForm() string {
	return strings.NewReplacer(`"rate_limit"`, `"rate"`, `"condition"`, `"conditions"`, `"interval"`, `"window"`, `,"technique":"sliding"`, ``,
		`{"id":"e","type":"end"}`, `{"id":"e","type":"end","outputs":{"x":{"elementId":""}}}`).Replace(guideForm)
}

func mustRoute(t testing.TB, elements string) *route {
	t.Helper()
	r, problems := parseRoute(json.RawMessage(elements))
	if len(problems) > 0 {
		t.Fatalf("%v", problems)
	}
	return r
}

// path names the models that a walk tries when each of them fails.
func path(t *testing.T, r *route, in *routeInput) string {
	t.Helper()
	var tried []string
	at := ""
	for range 10 {
		call, success, fallback, err := r.next(t.Context(), at, in)
		if err != nil {
			t.Fatal(err)
		}
		if call == nil {
			break
		}
		if c, _, _, err := r.next(t.Context(), success, in); c != nil || err != nil {
			t.Errorf("after the answer of %s comes %v, %v", call.Model, c, err)
		}
		tried, at = append(tried, call.Model), fallback
	}
	return strings.Join(tried, " ")
}

func TestRouteWalksInBothForms(t *testing.T) {
	t.Parallel()
	for name, elements := range map[string]string{"guide": guideForm, "api": apiForm()} {
		r := mustRoute(t, elements)
		var asked []routeLimit
		room := true
		in := &routeInput{Metadata: map[string]any{"plan": "free", "user": "ann"}, Key: "k", Allow: func(_ context.Context, l routeLimit) (bool, error) {
			asked = append(asked, l)
			return room, nil
		}}
		if got := path(t, r, in); got != "gpt-4o-mini" {
			t.Errorf("%s: free: %q", name, got)
		}
		want := routeLimit{Element: "limit", Key: "ann", Limit: 5, Window: time.Minute, Sliding: name == "guide"}
		if len(asked) != 1 || asked[0] != want {
			t.Errorf("%s: asked %+v, want %+v", name, asked, want)
		}
		if room = false; path(t, r, in) != "" {
			t.Errorf("%s: over the limit, and a model was tried", name)
		}
		in.Metadata["plan"] = "paid"
		paths := map[string]int{}
		for i := range 2000 {
			in.Key = fmt.Sprint("row-", i)
			paths[path(t, r, in)]++
		}
		if n := paths["claude gpt-4o-mini"]; n < 140 || n > 260 || n+paths["gpt-4o-mini"] != 2000 {
			t.Errorf("%s: split %v, want a tenth", name, paths)
		}
		call, _, _, err := r.next(t.Context(), "large", in)
		if err != nil || call.Timeout != 1500*time.Millisecond || call.Retries != 2 || call.Provider != "anthropic" || call.Element != "large" {
			t.Errorf("%s: call %+v, %v", name, call, err)
		}
	}
}

func TestRouteTakesTheSameBranchAgain(t *testing.T) {
	t.Parallel()
	r := mustRoute(t, guideForm)
	for i := range 50 {
		body := json.RawMessage(fmt.Sprintf(`{"messages":[%d]}`, i))
		in := func(event string) *routeInput {
			return &routeInput{Key: routeKey(event, json.RawMessage(`{"batch":"b"}`), body)}
		}
		first, again := path(t, r, in("")), path(t, r, in(""))
		named, other := path(t, r, in("row")), path(t, r, &routeInput{Key: routeKey("row", nil, nil)})
		if first != again || named != other {
			t.Fatalf("request %d took another branch", i)
		}
	}
	seen := map[string]bool{}
	for i := range 100 { // the same metadata doesn't make a batch go one way
		seen[path(t, r, &routeInput{Key: routeKey("", json.RawMessage(`{"batch":"b"}`), json.RawMessage(fmt.Sprint(i)))})] = true
	}
	if len(seen) != 2 {
		t.Errorf("all requests of a batch went %v", seen)
	}
}

func TestRouteSharesAddUp(t *testing.T) {
	t.Parallel()
	r := mustRoute(t, `[{"id":"s","type":"start","outputs":{"next":{"elementId":"p"}}},
		{"id":"p","type":"percentage","outputs":{"20%":{"elementId":"a"},"50%":{"elementId":"b"},"30 %":{"elementId":"c"}}},`+
		model("a", "e")+`,`+model("b", "e")+`,`+model("c", "e")+`,{"id":"e","type":"end"}]`)
	n := map[string]float64{}
	const rows = 5000
	for i := range rows {
		call, _, _, err := r.next(t.Context(), "", &routeInput{Key: fmt.Sprint(i)})
		if err != nil || call == nil {
			t.Fatal(call, err)
		}
		n[call.Element] += 100.0 / rows
	}
	for id, want := range map[string]float64{"a": 20, "b": 50, "c": 30} {
		if math.Abs(n[id]-want) > 3 {
			t.Errorf("%s got %.1f%%, want %.0f%%", id, n[id], want)
		}
	}
}

func model(id, fallback string) string {
	return fmt.Sprintf(`{"id":%q,"type":"model","properties":{"provider":"openai","model":%q,"timeout":0,"retries":0},"outputs":{"success":{"elementId":"e"},"fallback":{"elementId":%q}}}`,
		id, id, fallback)
}

func TestRouteBooksCostWhereItPassed(t *testing.T) {
	t.Parallel()
	limit := func(id, kind, to string) string {
		return fmt.Sprintf(`{"id":%q,"type":"rate","properties":{"limitType":%q,"key":"headers.x-team","limit":0.5,"window":3600},"outputs":{"success":{"elementId":%q},"fallback":{"elementId":"e"}}}`,
			id, kind, to)
	}
	r := mustRoute(t, `[{"id":"s","type":"start","outputs":{"next":{"elementId":"l1"}}},`+limit("l1", "cost", "l2")+`,`+limit("l2", "count", "a")+`,`+model("a", "l3")+`,`+
		limit("l3", "cost", "b")+`,`+model("b", "e")+`,{"id":"e","type":"end"}]`)
	in := &routeInput{Header: map[string][]string{"X-Team": {"blue"}}, Allow: func(context.Context, routeLimit) (bool, error) { return true, nil }}
	call, _, fallback, err := r.next(t.Context(), "", in)
	want := routeLimit{Element: "l1", Key: "blue", Cost: true, Limit: 0.5, Window: time.Hour}
	if err != nil || call.Element != "a" || len(call.Booked) != 1 || call.Booked[0] != want {
		t.Fatalf("%+v, %v", call, err)
	}
	if call, _, _, err = r.next(t.Context(), fallback, in); err != nil || call.Element != "b" || len(call.Booked) != 1 || call.Booked[0].Element != "l3" {
		t.Fatalf("%+v, %v", call, err)
	}
	down := errors.New("down")
	in.Allow = func(context.Context, routeLimit) (bool, error) { return false, down }
	if _, _, _, err := r.next(t.Context(), "", in); !errors.Is(err, down) {
		t.Errorf("error %v", err)
	}
}

func TestRouteProblems(t *testing.T) {
	t.Parallel()
	start, end := `{"id":"s","type":"start","outputs":{"next":{"elementId":"a"}}},`, `,{"id":"e","type":"end"}`
	for _, c := range []struct{ name, elements, field string }{
		{"nothing", ``, "elements"}, {"empty", `[]`, "elements"}, {"no array", `{}`, "elements"},
		{"no start", `[` + model("a", "e") + end + `]`, "elements"},
		{"two starts", `[` + start + strings.Replace(start, `"s"`, `"s2"`, 1) + model("a", "e") + end + `]`, "elements[1]"},
		{"same id", `[` + start + model("a", "e") + `,` + model("a", "e") + end + `]`, "elements[2].id"},
		{"no id", `[` + start + model("", "e") + end + `]`, "elements[1].id"},
		{"edge to nowhere", `[` + start + model("a", "x") + end + `]`, "elements[1].outputs.fallback.elementId"},
		{"back to the start", `[` + start + model("a", "s") + end + `]`, "elements[1].outputs.fallback.elementId"},
		{"cycle", `[` + start + model("a", "b") + `,` + model("b", "a") + end + `]`, "elements"},
		{"itself", `[` + start + model("a", "a") + end + `]`, "elements"},
		{"no model", `[{"id":"s","type":"start","outputs":{"next":{"elementId":"e"}}},` + model("a", "e") + end + `]`, "elements"},
		{"success goes on", `[` + start + strings.Replace(model("a", "e"), `"success":{"elementId":"e"}`, `"success":{"elementId":"b"}`, 1) + `,` + model("b", "e") + end + `]`,
			"elements[1].outputs.success.elementId"},
		{"no fallback", `[` + start + strings.Replace(model("a", "e"), `"fallback"`, `"failure"`, 1) + end + `]`, "elements[1].outputs.fallback"},
		{"unknown type", `[` + start + strings.Replace(model("a", "e"), `"model"`, `"modell"`, 1) + end + `]`, "elements[1].type"},
		{"unknown provider", `[` + start + strings.Replace(model("a", "e"), `"openai"`, `"nobody"`, 1) + end + `]`, "elements[1].properties.provider"},
		{"unknown property", `[` + start + strings.Replace(model("a", "e"), `"retries"`, `"retires"`, 1) + end + `]`, "elements[1].properties"},
		{"retries", `[` + start + strings.Replace(model("a", "e"), `"retries":0`, `"retries":6`, 1) + end + `]`, "elements[1].properties.retries"},
		{"half a retry", `[` + start + strings.Replace(model("a", "e"), `"retries":0`, `"retries":0.5`, 1) + end + `]`, "elements[1].properties.retries"},
		{"timeout", `[` + start + strings.Replace(model("a", "e"), `"timeout":0`, `"timeout":1e9`, 1) + end + `]`, "elements[1].properties.timeout"},
		{"over 100", `[` + start + `{"id":"a","type":"percentage","outputs":{"60%":{"elementId":"b"},"50%":{"elementId":"b"}}},` + model("b", "e") + end + `]`, "elements[1].outputs"},
		{"under 100", `[` + start + `{"id":"a","type":"percentage","outputs":{"60%":{"elementId":"b"}}},` + model("b", "e") + end + `]`, "elements[1].outputs.else"},
		{"no percentage", `[` + start + `{"id":"a","type":"percentage","outputs":{"most":{"elementId":"b"},"else":{"elementId":"b"}}},` + model("b", "e") + end + `]`, "elements[1].outputs"},
		{"condition", `[` + start + `{"id":"a","type":"conditional","properties":{},"outputs":{"true":{"elementId":"b"},"false":{"elementId":"b"}}},` + model("b", "e") + end + `]`,
			"elements[1].properties.condition"},
		{"limit", `[` + start + `{"id":"a","type":"rate","properties":{"limitType":"tokens","key":"user","limit":0,"window":0},"outputs":{"success":{"elementId":"b"},"fallback":{"elementId":"e"}}},` +
			model("b", "e") + end + `]`, "elements[1].properties.key"},
	} {
		r, problems := parseRoute(json.RawMessage(c.elements))
		ok := false
		for _, p := range problems {
			ok = ok || p.Field == c.field
		}
		if r != nil || !ok {
			t.Errorf("%s: route %v, problems %v, want one of %s", c.name, r, problems, c.field)
		}
	}
}

func TestConditions(t *testing.T) {
	t.Parallel()
	in := func() *routeInput {
		return &routeInput{Header: map[string][]string{"X-Tier": {"3"}, "X-On": {"true"}}, Metadata: map[string]any{"plan": "free", "age": int64(7), "a.b": "dotted", "on": true},
			Body: json.RawMessage(`{"model":"m","temperature":0.5,"tags":["x","y"],"messages":[{"role":"user","content":"hi"}],"null":null}`)}
	}
	for c, want := range map[string]bool{
		`{}`:                       true,
		`{"metadata.plan":"free"}`: true, `{"metadata.plan":{"$eq":"paid"}}`: false, `{"metadata.plan":{"$ne":"paid"}}`: true,
		`{"metadata.none":{"$eq":null}}`: true, `{"metadata.none":{"$ne":"x"}}`: true, `{"metadata.none":{"$exists":false}}`: true, `{"body.null":{"$exists":true}}`: true,
		`{"metadata.age":{"$gt":6,"$lt":8}}`: true, `{"metadata.age":{"$gte":7}}`: true, `{"metadata.age":{"$lte":6}}`: false, `{"metadata.age":{"$gt":"6"}}`: false,
		`{"metadata.plan":{"$in":["a","free"]}}`: true, `{"metadata.plan":{"$nin":["a","free"]}}`: false, `{"metadata.none":{"$nin":["a"]}}`: true, `{"metadata.none":{"$in":["a"]}}`: false,
		`{"metadata.a.b":"dotted"}`: true, `{"metadata.on":true}`: true,
		`{"headers.x-tier":"3"}`: true, `{"headers.X-TIER":{"$gte":3}}`: true, `{"headers.x-on":true}`: true, `{"headers.none":{"$exists":true}}`: false,
		`{"body.model":"m","body.temperature":{"$lt":1}}`: true, `{"body.messages.0.role":"user"}`: true, `{"body.messages.1.role":"user"}`: false, `{"body.tags":"y"}`: true,
		`{"body.tags":["x","y"]}`: true, `{"body.tags":{"$in":["z"]}}`: false, `{"body.model":{"$gt":"a"}}`: true, `{"body.model.deep":"x"}`: false,
		`{"$or":[{"metadata.plan":"paid"},{"body.model":"m"}]}`: true, `{"$and":[{"metadata.plan":"paid"},{"body.model":"m"}]}`: false,
		`{"$not":{"metadata.plan":"paid"}}`: true, `{"metadata.plan":{"$not":{"$eq":"free"}}}`: false, `{"metadata.none":{"$lt":5}}`: false,
		`{"body.messages.0":{"role":"user","content":"hi"}}`: true,
	} {
		cond, err := parseCondition(json.RawMessage(c))
		if err != nil {
			t.Errorf("%s: %v", c, err)
		} else if got := cond(in()); got != want {
			t.Errorf("%s is %v", c, got)
		}
	}
	for _, c := range []string{``, `null`, `[]`, `"x"`, `{"plan":"free"}`, `{"metadata":"x"}`, `{"metadata..x":1}`, `{"metadata.x":{"$regex":"a"}}`, `{"$and":{}}`, `{"$or":[]}`, `{"$or":[1]}`,
		`{"metadata.x":{"$in":"a"}}`, `{"metadata.x":{"$exists":1}}`, `{"metadata.x":{"$gt":true}}`, `{"$nor":[]}`, `{"secret.x":1}`,
		strings.Repeat(`{"$not":`, 40) + `{}` + strings.Repeat(`}`, 40)} {
		if _, err := parseCondition(json.RawMessage(c)); err == nil {
			t.Errorf("%s was taken", c)
		}
	}
}

// FuzzRoute holds the promise of a parsed route: from everywhere, a walk ends at a model or an end.
func FuzzRoute(f *testing.F) {
	f.Add([]byte(guideForm), "free", "k", true)
	f.Add([]byte(apiForm()), "paid", "k", false)
	f.Add([]byte(`[{"id":"s","type":"start","outputs":{"next":{"elementId":"s"}}}]`), "", "", false)
	f.Add([]byte(`[{"id":"s","type":"percentage","outputs":{"1e1%":{"elementId":"s"},"NaN%":{}}}]`), "", "", false)
	f.Fuzz(func(t *testing.T, elements []byte, plan, key string, room bool) {
		r, problems := parseRoute(elements)
		if (r == nil) == (len(problems) == 0) {
			t.Fatalf("route %v, problems %v", r, problems)
		}
		if r == nil {
			return
		}
		in := &routeInput{Body: elements, Metadata: map[string]any{"plan": plan}, Key: key, Allow: func(context.Context, routeLimit) (bool, error) { return room, nil }}
		at := ""
		for range len(r.nodes) + 1 {
			call, success, fallback, err := r.next(t.Context(), at, in)
			if err != nil {
				t.Fatal(err)
			}
			if call == nil {
				return
			}
			if r.nodes[success].kind != "end" || call.Model == "" || call.Retries < 0 || call.Timeout < 0 {
				t.Fatalf("call %+v, success leads to %s", call, r.nodes[success].kind)
			}
			at = fallback
		}
		t.Fatal("a walk has no end")
	})
}
