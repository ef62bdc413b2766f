package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// simulate runs one chat through a fresh engine.
func simulate(t *testing.T, o SimulatorOptions, model string, c *Chat) (*Response, error) {
	t.Helper()
	e, err := NewEngine(EngineOptions{Simulator: o})
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewStep("simulator", model, c, &StepConfig{MaxAttempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	return e.Run(t.Context(), &Request{Steps: []Step{s}}, nil)
}

func ask(s string) []Message { return []Message{{"user", s}} }

func TestSimulatorAnswersAreAFunctionOfTheRequest(t *testing.T) {
	t.Parallel()
	texts := map[string]bool{}
	for _, c := range []*Chat{{Messages: ask("a")}, {Messages: ask("b")}, {Messages: ask("a"), MaxTokens: 80}, {Messages: ask("a"), JSON: true}} {
		one, err := simulate(t, SimulatorOptions{}, "gpt-x", c)
		if err != nil {
			t.Fatal(err)
		}
		two, err := simulate(t, SimulatorOptions{}, "gpt-x", c)
		if err != nil {
			t.Fatal(err)
		}
		if one.Text != two.Text || string(one.Body) != string(two.Body) {
			t.Errorf("%q, then %q", one.Text, two.Text)
		}
		if !c.JSON && !strings.HasPrefix(one.Text, "[simulated] ") || c.JSON && !json.Valid([]byte(one.Text)) {
			t.Errorf("text %q", one.Text)
		}
		if one.Model != "simulator/gpt-x" || one.Finish != FinishStop || !one.Usage.Known || c.MaxTokens > 0 && one.Usage.Output > int64(c.MaxTokens) {
			t.Errorf("answer %+v", one)
		}
		texts[one.Text] = true
	}
	seeded, err := simulate(t, SimulatorOptions{Seed: 1}, "gpt-x", &Chat{Messages: ask("a")})
	if err != nil {
		t.Fatal(err)
	}
	texts[seeded.Text] = true
	if len(texts) != 5 {
		t.Errorf("%d different texts, want 5", len(texts))
	}
}

func TestSimulatorOptions(t *testing.T) {
	t.Parallel()
	r, err := simulate(t, SimulatorOptions{InputTokens: 1000, OutputTokens: 50}, "m", &Chat{Messages: ask("a")})
	if err != nil || r.Usage != (Usage{Input: 1000, Output: 50, Known: true}) || r.Finish != FinishStop || len(r.Text) < 180 || len(r.Text) > 200 {
		t.Errorf("answer %+v, err %v", r, err)
	}
	r, err = simulate(t, SimulatorOptions{OutputTokens: 50}, "m", &Chat{Messages: ask("a"), MaxTokens: 10})
	if err != nil || r.Usage.Output != 10 || r.Finish != FinishLength || len(r.Text) > 41 {
		t.Errorf("cut answer %+v, err %v", r, err)
	}
	r, err = simulate(t, SimulatorOptions{}, "echo", &Chat{Messages: ask("say \"é\"\n")})
	if err != nil || r.Text != "[simulated] say \"é\"\n" {
		t.Errorf("echo %+v, err %v", r, err)
	}
}

func TestSimulatorLengthsAreSpread(t *testing.T) {
	t.Parallel()
	const n = 4000
	sum, squares := 0.0, 0.0
	for i := range n {
		r, err := simulate(t, SimulatorOptions{Seed: 5, OutputTokens: 200, OutputSpread: 0.5}, "m", &Chat{Messages: ask(fmt.Sprint(i)), MaxTokens: 100_000})
		if err != nil {
			t.Fatal(err)
		}
		l := math.Log(float64(r.Usage.Output) / 200)
		sum, squares = sum+l, squares+l*l
	}
	mean := sum / n
	if sd := math.Sqrt(squares/n - mean*mean); math.Abs(mean) > 0.05 || math.Abs(sd-0.5) > 0.03 {
		t.Errorf("logarithms of lengths have mean %.3f and standard deviation %.3f, want 0 and 0.5", mean, sd)
	}
	r, err := simulate(t, SimulatorOptions{OutputTokens: 200, OutputSpread: 0.5}, "m", &Chat{Messages: ask("hi"), MaxTokens: 3})
	if err != nil || r.Usage.Output != 3 || r.Finish != FinishLength {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestSimulatorFaults(t *testing.T) {
	t.Parallel()
	for class, o := range map[Class]SimulatorOptions{
		Server: {ErrorRate: 1}, RateLimited: {RateLimitRate: 1}, Timeout: {HangRate: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			if _, err := simulate(t, o, "m", &Chat{Messages: ask("a")}); ClassOf(err) != class {
				t.Errorf("%+v: %v", o, err)
			}
		})
	}
	_, err := simulate(t, SimulatorOptions{GarbageRate: 1}, "m", &Chat{Messages: ask("a")})
	if e, ok := err.(*Error); !ok || e.Code != codeInvalidAnswer {
		t.Errorf("garbage: %v", err)
	}
	s := NewSimulator(SimulatorOptions{ErrorRate: 0.25, RateLimitRate: 0.25, Seed: 3})
	body := []byte(`{"model":"m","messages":[]}`)
	seen := map[int]int{}
	for range 4000 {
		a, err := s.serve(t.Context(), body, 0)
		if err != nil {
			t.Fatal(err)
		}
		seen[a.status]++
	}
	if math.Abs(float64(seen[500])-1000) > 150 || math.Abs(float64(seen[429])-1000) > 150 || seen[200] != 4000-seen[500]-seen[429] {
		t.Errorf("answered %v", seen)
	}
	if st := s.Stats(); st.Calls != 4000 || st.Answers != int64(seen[200]) || st.Failures != 4000-st.Answers || st.OutputTokens == 0 {
		t.Errorf("stats %+v", st)
	}
}

func TestSimulatorLatency(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := SimulatorOptions{Latency: 2 * time.Second, LatencyJitter: time.Second}
		start := time.Now()
		if _, err := simulate(t, o, "m", &Chat{Messages: ask("a")}); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d < o.Latency || d > o.Latency+o.LatencyJitter {
			t.Errorf("took %v", d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := NewSimulator(o).serve(ctx, nil, 0); err != context.DeadlineExceeded {
			t.Errorf("err %v", err)
		}
	})
}

func TestSimulatorOverHTTP(t *testing.T) {
	t.Parallel()
	sim := NewSimulator(SimulatorOptions{})
	srv := httptest.NewServer(sim)
	defer srv.Close()
	e, err := NewEngine(EngineOptions{Endpoints: map[string]Endpoint{"custom-sim": {BaseURL: srv.URL + "/v1"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	s, err := NewStep("custom-sim", "m", &Chat{Messages: ask("a"), MaxTokens: 50}, nil)
	if err != nil {
		t.Fatal(err)
	}
	over, err := e.Run(t.Context(), &Request{Steps: []Step{s}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	within, err := simulate(t, SimulatorOptions{}, "m", &Chat{Messages: ask("a"), MaxTokens: 50})
	if err != nil || len(over.Text) == 0 || sim.Stats().Answers != 1 {
		t.Errorf("answer %+v, err %v", over, err)
	}
	over.Provider, over.Attempts, within.Attempts = "simulator", nil, nil // in process the answer is not decoded, and must be the same
	if !reflect.DeepEqual(over, within) {
		t.Errorf("over HTTP %+v, within %+v", over, within)
	}
	for _, bad := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/v1/chat/completions", "", 405}, {"POST", "/v1/embeddings", "{}", 404},
		{"POST", "/v1/chat/completions", "{", 400}, {"POST", "/v1/chat/completions", "{}", 400},
	} {
		req, _ := http.NewRequestWithContext(t.Context(), bad.method, srv.URL+bad.path, strings.NewReader(bad.body))
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != bad.status {
			t.Errorf("%s %s: status %d, want %d", bad.method, bad.path, res.StatusCode, bad.status)
		}
	}
}

func TestSimulatorSatisfiesSchemas(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{
		`{"type":"object","properties":{"s":{"type":"string","minLength":40},"n":{"type":"number","minimum":0.5,"maximum":0.75},"i":{"type":"integer","minimum":-3,"maximum":-1},"b":{"type":"boolean"},"z":{"type":"null"}},"required":["s","n","i","b","z"],"additionalProperties":false}`,
		`{"type":"object","properties":{"tags":{"type":"array","minItems":2,"maxItems":4,"items":{"enum":["a","b","c"]}},"kind":{"const":"x"},"opt":{"type":["string","null"],"maxLength":3}},"required":["tags"]}`,
		`{"type":"object","properties":{"tree":{"$ref":"#/$defs/node"}},"required":["tree"],"$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},"kids":{"type":"array","items":{"$ref":"#/$defs/node"}}},"required":["v","kids"]}}}`,
		`{"type":"object","properties":{"x":{"anyOf":[{"type":"null"},{"type":"integer","exclusiveMinimum":5,"exclusiveMaximum":7}]}},"required":["x","unlisted"]}`,
		`{"type":"object","properties":{"o":{"type":"object"},"a":{"type":"array"},"any":{}},"required":["o","a","any"]}`,
		`{"type":"array","items":{"type":"number","maximum":-1000}}`,
		`{"properties":{"d":{"type":"string","format":"date"}},"required":["d"]}`,
		`{"enum":[1,"two",null]}`,
	} {
		var s schema
		if err := json.Unmarshal([]byte(raw), &s); err != nil {
			t.Fatal(err)
		}
		for seed := range random(200) {
			got := appendInstance(nil, json.RawMessage(raw), &seed)
			var v any
			if err := json.Unmarshal(got, &v); err != nil {
				t.Fatalf("%s: %s: %v", raw, got, err)
			}
			if why := violates(&s, &s, v); why != "" {
				t.Fatalf("%s: %s: %s", raw, got, why)
			}
		}
	}
	r, err := simulate(t, SimulatorOptions{}, "m", &Chat{Messages: ask("a"), Schema: json.RawMessage(`{"type":"object","properties":{"a":{"type":"boolean"}},"required":["a"]}`)})
	if err != nil || r.Text != `{"a":true}` && r.Text != `{"a":false}` {
		t.Errorf("answer %+v, err %v", r, err)
	}
}

// violates is a small validator, written apart from the generator.
func violates(root, s *schema, v any) string {
	if s.Ref != "" {
		return violates(root, root.Defs[strings.TrimPrefix(s.Ref, "#/$defs/")], v)
	}
	if s.Const != nil || s.Enum != nil {
		b, _ := json.Marshal(v)
		if !slices.ContainsFunc(append(s.Enum, s.Const), func(r json.RawMessage) bool { return string(r) == string(b) }) {
			return "not in the enum: " + string(b)
		}
		return ""
	}
	if s.AnyOf != nil {
		if !slices.ContainsFunc(s.AnyOf, func(a *schema) bool { return violates(root, a, v) == "" }) {
			return "no alternative fits"
		}
		return ""
	}
	switch k := s.kind(); v := v.(type) {
	case map[string]any:
		for _, name := range s.Required {
			if _, ok := v[name]; !ok {
				return "lacks " + name
			}
		}
		for name, sub := range s.Properties {
			if x, ok := v[name]; ok {
				if why := violates(root, sub, x); why != "" {
					return name + ": " + why
				}
			}
		}
		if k != "object" {
			return "an object"
		}
	case []any:
		if k != "array" || len(v) < s.MinItems || s.MaxItems != nil && len(v) > *s.MaxItems {
			return "an array"
		}
		for _, x := range v {
			if s.Items == nil {
				continue
			}
			if why := violates(root, s.Items, x); why != "" {
				return why
			}
		}
	case string:
		if k != "string" && k != "" || len(v) < s.MinLength || s.MaxLength != nil && len(v) > *s.MaxLength {
			return "a string: " + v
		}
	case float64:
		if k != "number" && k != "integer" || k == "integer" && v != math.Trunc(v) ||
			s.Minimum != nil && v < *s.Minimum || s.Maximum != nil && v > *s.Maximum ||
			s.Above != nil && v <= *s.Above || s.Below != nil && v >= *s.Below {
			return "a number"
		}
	case bool:
		if k != "boolean" {
			return "a boolean"
		}
	case nil:
		if k != "null" {
			return "null"
		}
	}
	return ""
}

func FuzzAppendInstance(f *testing.F) {
	f.Add([]byte(`{"type":"object","properties":{"a":{"type":"string","minLength":3,"maxLength":1}},"required":["a","b"]}`), uint64(1))
	f.Add([]byte(`{"$ref":"#"}`), uint64(2))
	f.Add([]byte(`{"type":"array","minItems":3,"items":{"$ref":"#"}}`), uint64(3))
	f.Add([]byte(`{"type":"integer","minimum":1e308,"maximum":-1e308}`), uint64(4))
	f.Fuzz(func(t *testing.T, raw []byte, seed uint64) {
		r := random(seed)
		if got := appendInstance(nil, raw, &r); !json.Valid(got) {
			t.Errorf("schema %q gave %q", raw, got)
		}
	})
}
