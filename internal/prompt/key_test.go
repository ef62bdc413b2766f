package prompt

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"
)

// mirror is the canonical form of a Request by way of encoding/json and jcs.
type mirror struct {
	JSON        bool            `json:"json,omitempty"`
	MaxTokens   int             `json:"max_tokens,omitempty"`
	Messages    []Message       `json:"messages"`
	Model       string          `json:"model"`
	Schema      json.RawMessage `json:"schema,omitempty"`
	Seed        any             `json:"seed,omitempty"`
	Stop        []string        `json:"stop,omitempty"`
	Temperature *float64        `json:"temperature,omitempty"`
	TopP        *float64        `json:"top_p,omitempty"`
	V           int             `json:"v"`
}

func mirrorKey(t rapid.TB, r *Request) Key {
	t.Helper()
	m := mirror{r.JSON, r.MaxTokens, r.Messages, r.Model, r.Schema, nil, r.Stop, r.Temperature, r.TopP, 1}
	if m.Messages == nil {
		m.Messages = []Message{}
	}
	if r.Seed != nil {
		m.Seed = *r.Seed
		if *r.Seed > 1<<53 || *r.Seed < -1<<53 {
			m.Seed = strconv.FormatInt(*r.Seed, 10)
		}
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	canonical, err := jcs.Transform(raw)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(canonical)
}

func anyRequest() *rapid.Generator[*Request] {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "plain text", "\x00\x1f\u007f\u2028 <&> \"\\/", "é😀\ufb33", "bad \xff\xc3 bytes"}))
	return rapid.Custom(func(t *rapid.T) *Request {
		r := &Request{
			Model: text.Draw(t, "model"), MaxTokens: rapid.IntRange(0, 1<<24).Draw(t, "max_tokens"),
			Stop: rapid.SliceOfN(text, 0, 3).Draw(t, "stop"), JSON: rapid.Bool().Draw(t, "json"),
			Temperature: rapid.Ptr(rapid.Float64(), true).Draw(t, "temperature"), TopP: rapid.Ptr(rapid.Float64(), true).Draw(t, "top_p"),
			Seed: rapid.Ptr(rapid.Int64(), true).Draw(t, "seed"),
		}
		for range rapid.IntRange(0, 3).Draw(t, "messages") {
			r.Messages = append(r.Messages, Message{Role: text.Draw(t, "role"), Content: text.Draw(t, "content")})
		}
		if rapid.Bool().Draw(t, "has_schema") {
			r.Schema, _ = json.Marshal(map[string]any{"type": "object", "x": anyJSON(2).Draw(t, "schema")})
		}
		return r
	})
}

func TestKeyIsSHA256OfTheCanonicalForm(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := anyRequest().Draw(t, "request")
		if got, want := r.Key(), mirrorKey(t, r); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	})
}

// A key of a year ago must find its answer: these never change while the version is 1.
func TestKeysOfToday(t *testing.T) {
	t.Parallel()
	zero, seed := 0.0, int64(math.MaxInt64)
	for _, c := range []struct {
		canonical string
		request   Request
	}{
		{`{"messages":[{"content":"Hi","role":"user"}],"model":"m","v":1}`, Request{Model: "m", Messages: []Message{{RoleUser, "Hi"}}}},
		{
			`{"json":true,"max_tokens":300,"messages":[{"content":"a\n\"b\"","role":"system"},{"content":"é","role":"user"}],"model":"gpt","schema":{"a":1,"b":{}},"seed":"9223372036854775807","stop":["x"],"temperature":0,"top_p":0,"v":1}`,
			Request{
				Model: "gpt", MaxTokens: 300, Messages: []Message{{RoleSystem, "a\n\"b\""}, {RoleUser, "é"}}, JSON: true,
				Schema: json.RawMessage(`{"b":{},"a":1.0}`), Seed: &seed, Stop: []string{"x"}, Temperature: &zero, TopP: &zero,
			},
		},
	} {
		if got := c.request.Key(); got != sha256.Sum256([]byte(c.canonical)) {
			t.Errorf("the key isn't that of %s", c.canonical)
		}
	}
	for got, want := range map[string]string{
		(&Request{Model: "m", Messages: []Message{{RoleUser, "Hi"}}}).Key().String(): "cd574770edf36fb0065da6aa67a834ad77af4729ffc92f7c4fd40f22d136c7b5",
		DeriveKey("summarize", []byte("a"), []byte("b")).String():                    "023c779f0922972247e5590520d4b424d3accf92e7cc32ed4ec153418c8c2e44",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestKeysOfSeveralModels(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := anyRequest().Draw(t, "request")
		if rapid.Bool().Draw(t, "long") {
			r.Messages = append(r.Messages, Message{RoleUser, strings.Repeat("long ", 200)})
		}
		models := rapid.SliceOfN(rapid.String(), 0, 4).Draw(t, "models")
		keys := r.Keys(models)
		for i, model := range models {
			one := *r
			one.Model = model
			if keys[i] != one.Key() {
				t.Fatalf("model %q: another key than alone", model)
			}
		}
	})
}

func TestEverythingThatDecidesIsInTheKey(t *testing.T) {
	t.Parallel()
	base := func() *Request { return &Request{Model: "m", Messages: []Message{{RoleUser, "u"}}} }
	one, half, seed := 1.0, 0.5, int64(1)
	seen := map[Key]string{base().Key(): "base"}
	for name, change := range map[string]func(*Request){
		"model":            func(r *Request) { r.Model = "n" },
		"content":          func(r *Request) { r.Messages[0].Content = "v" },
		"role":             func(r *Request) { r.Messages[0].Role = RoleSystem },
		"another message":  func(r *Request) { r.Messages = append(r.Messages, Message{}) },
		"no message":       func(r *Request) { r.Messages = nil },
		"max tokens":       func(r *Request) { r.MaxTokens = 1 },
		"temperature":      func(r *Request) { r.Temperature = &one },
		"half temperature": func(r *Request) { r.Temperature = &half },
		"top p":            func(r *Request) { r.TopP = &one },
		"seed":             func(r *Request) { r.Seed = &seed },
		"stop":             func(r *Request) { r.Stop = []string{"a", "b"} },
		"another stop":     func(r *Request) { r.Stop = []string{"a\",\"b"} },
		"json":             func(r *Request) { r.JSON = true },
		"schema":           func(r *Request) { r.Schema = json.RawMessage(`{}`) },
		"broken schema":    func(r *Request) { r.Schema = json.RawMessage(`{`) },
		"schema text":      func(r *Request) { r.Schema = json.RawMessage(`"{"`) },
		"infinite":         func(r *Request) { inf := math.Inf(1); r.Temperature = &inf },
	} {
		r := base()
		change(r)
		if other, taken := seen[r.Key()]; taken {
			t.Errorf("%s has the key of %s", name, other)
		}
		seen[r.Key()] = name
	}
}

func TestTemplateRequestKeepsItsSchemaKey(t *testing.T) {
	t.Parallel()
	tmpl := compile(t, `{"user":"u","output":{"format":"json","schema":{"type":"object","properties":{"b":{},"a":{}}}},"sampling":{"max_tokens":7,"stop":["x"]}}`)
	messages, err := tmpl.Render(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := tmpl.Request("m", messages)
	if r.Key() != mirrorKey(t, r) {
		t.Error("another key than by jcs")
	}
	before := r.Key()
	r.Schema = json.RawMessage(`{"type":"array"}`)
	if r.Key() == before || r.Key() != mirrorKey(t, r) {
		t.Error("a schema that was changed afterwards isn't in the key")
	}
}

func TestKeyRaw(t *testing.T) {
	t.Parallel()
	const base = `{"model":"m","messages":[{"role":"user","content":"é"}],"temperature":1}`
	want, model, err := KeyRaw(json.RawMessage(base))
	if err != nil || model != "m" {
		t.Fatal(model, err)
	}
	if canonical := `{"body":{"messages":[{"content":"é","role":"user"}],"model":"m","temperature":1},"kind":"chat","v":1}`; want != sha256.Sum256([]byte(canonical)) {
		t.Error("the canonical form has changed")
	}
	for _, same := range []string{
		"{ \"temperature\":1.0,\n\"messages\":[{\"content\":\"\\u00e9\",\"role\":\"user\"}] ,\"model\":\"\\u006d\"}",
		`{"user":"u","model":"m","messages":[{"role":"user","content":"é"}],"temperature":1,"metadata":{"a":[1]},"stream":true,"stream_options":{},"store":true,"service_tier":"flex","safety_identifier":"s","prompt_cache_key":"k","prompt_cache_retention":"24h","prompt_cache_options":{}}`,
	} {
		if got, model, err := KeyRaw(json.RawMessage(same)); got != want || model != "m" || err != nil {
			t.Errorf("%s: another key, model %q, error %v", same, model, err)
		}
	}
	for _, other := range []string{
		`{"model":"n","messages":[{"role":"user","content":"é"}],"temperature":1}`,
		`{"model":"m","messages":[{"role":"user","content":"é"}],"temperature":1,"n":2}`,
		`{"model":"m","messages":[{"role":"user","content":"é"}],"temperature":1,"seed":9007199254740992}`,
		`{"model":"m","messages":[{"role":"user","content":"é"}],"temperature":1,"seed":9007199254740993}`,
		`{"model":"m","messages":[{"role":"user","content":"é","user":"x"}],"temperature":1}`,
		`{"model":"m","messages":[{"role":"user","content":"é"}],"temperature":1,"unknown_option":null}`,
	} {
		if got, _, err := KeyRaw(json.RawMessage(other)); got == want || err != nil {
			t.Errorf("%s: the same key, or error %v", other, err)
		}
	}
	for body, reason := range map[string]string{
		``:                           `the JSON ends too early`,
		`[]`:                         `expected a chat request as a JSON object, got array`,
		`{}`:                         `model: the request names no model`,
		`{"model":""}`:               `model: the request names no model`,
		`{"model":1}`:                `model: the request names no model`,
		`{"a":{"model":"m"}}`:        `model: the request names no model`,
		`{"model":"m","model":1}`:    `the object at byte 0 has two members of one name`,
		`{"model":"m","a":1e999}`:    `the number at byte 17 is out of range`,
		`{"model":"m","a":"\ud83d"}`: `half a surrogate pair is escaped at byte 18`,
		`{"model":"m",}`:             `not valid JSON at byte 13`,
	} {
		if _, _, err := KeyRaw(json.RawMessage(body)); err == nil || err.Error() != reason {
			t.Errorf("%s\n got %v\nwant %s", body, err, reason)
		}
	}
}

func FuzzKeyRaw(f *testing.F) {
	f.Add([]byte(`{"model":"m","messages":[{"role":"user","content":"x"}],"user":"u"}`))
	f.Add([]byte(`{"user":{"b":1,"a":[]},"model":"m"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		k, model, err := KeyRaw(body)
		if err != nil {
			return
		}
		canonical, err := jcs.Transform(body)
		if err != nil || keepsDigits(body) {
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		if again, sameModel, err := KeyRaw(canonical); again != k || sameModel != model || err != nil {
			t.Fatalf("the canonical form of %q has another key: %v", body, err)
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(canonical, &fields); err != nil {
			t.Fatal(err)
		}
		for name := range fields {
			if passive([]byte(name)) {
				delete(fields, name)
			}
		}
		var plain bytes.Buffer
		encoder := json.NewEncoder(&plain)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(map[string]any{"body": fields, "kind": "chat", "v": 1}); err != nil {
			t.Fatal(err)
		}
		want, err := jcs.Transform(plain.Bytes())
		if err != nil || sha256.Sum256(want) != k {
			t.Fatalf("%q: another key than by jcs: %v", body, err)
		}
	})
}

func TestDeriveKeySeparates(t *testing.T) {
	t.Parallel()
	seen := map[Key]int{}
	for i, parts := range [][]string{{}, {""}, {"", ""}, {"a"}, {"a", "b"}, {"ab"}, {"ab", ""}, {"", "ab"}, {"a", "b", ""}} {
		var raw [][]byte
		for _, p := range parts {
			raw = append(raw, []byte(p))
		}
		for _, kind := range []string{"", "a", "summarize"} {
			k := DeriveKey(kind, raw...)
			if other, taken := seen[k]; taken {
				t.Errorf("list %d has the key of list %d", i, other)
			}
			seen[k] = i
		}
	}
}

// A part over the size of the pooled buffer takes another path to the same key.
func TestDeriveKeyOfLargeParts(t *testing.T) {
	t.Parallel()
	large := bytes.Repeat([]byte("x"), maxPooled+1)
	got := DeriveKey("k", large, []byte("y"))
	h := sha256.New()
	h.Write([]byte("batchwright/derive/1\x00"))
	h.Write([]byte{0, 0, 0, 0, 0, 0, 0, 1, 'k', 0, 0, 0, 0, 0, 0x10, 0, 1})
	h.Write(large)
	h.Write([]byte{0, 0, 0, 0, 0, 0, 0, 1, 'y'})
	if want := Key(h.Sum(nil)); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestKeyText(t *testing.T) {
	t.Parallel()
	k := DeriveKey("x")
	raw, err := json.Marshal(map[string]Key{"key": k})
	if err != nil || string(raw) != `{"key":"`+k.String()+`"}` {
		t.Fatal(string(raw), err)
	}
	var back map[string]Key
	if err := json.Unmarshal(raw, &back); err != nil || back["key"] != k {
		t.Error(err)
	}
	for _, bad := range []string{"", "12", strings.Repeat("g", 64), k.String() + "00"} {
		if err := new(Key).UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("accepted %q", bad)
		}
	}
}
