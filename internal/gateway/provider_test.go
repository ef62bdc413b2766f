package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s:\ngot\n%s\nwant\n%s", file, got, want)
	}
}

func ptr[T any](v T) *T { return &v }

// the chats that every provider must encode, or refuse, always in the same way
var chats = map[string]*Chat{
	"plain": {Messages: []Message{{"system", "Be brief."}, {"user", "<b>Hello</b> & \"goodbye\"\n"}}, MaxTokens: 50},
	"full": {
		Messages:  []Message{{"user", "One"}, {"assistant", "Two"}, {"user", "Three"}},
		MaxTokens: 7, Temperature: ptr(0.0), TopP: ptr(0.95), Seed: ptr(int64(42)), Stop: []string{"END", "\n\n"},
	},
	"json":   {Messages: []Message{{"user", "List"}}, JSON: true},
	"schema": {Messages: []Message{{"user", "List"}}, Schema: json.RawMessage(`{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"array","items":{"type":"integer"}}},"required":["b","a"],"additionalProperties":false}`), SchemaName: "row"},
	"loose":  {Messages: []Message{{"user", "List"}}, Schema: json.RawMessage(`{"type": "object", "properties": {"b": {"type": "string"}}}`)},
}

// TestProviders runs the same questions past every registered provider, and its recorded answers through its decoder.
// A provider without testdata fails.
func TestProviders(t *testing.T) {
	t.Parallel()
	for _, name := range append(Providers(), "custom-x") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, ok := Lookup(name)
			if !ok || p.Name() != name {
				t.Fatalf("Lookup(%q) = %v, %v", name, p, ok)
			}
			dir := filepath.Join("testdata", name)
			if name == "custom-x" {
				dir = filepath.Join("testdata", "openai-compatible")
			}
			encodes(t, p, dir)
			decodes(t, p, dir)
		})
	}
}

func encodes(t *testing.T, p Provider, dir string) {
	model := "m-1"
	switch p.Name() {
	case "local":
		model = Extractive
	case "azure-openai":
		model = "my-resource/m-1"
	case "replicate":
		model = "owner/name"
	}
	for name, c := range chats {
		var first string
		for range 3 {
			endpoint, body, err := p.Encode(model, c)
			got := fmt.Sprintf("POST %s\n%s\n", endpoint, body)
			if err != nil {
				got = fmt.Sprintf("error: %v\n", err)
			} else if !json.Valid(body) {
				t.Errorf("%s: not JSON: %s", name, body)
			}
			if first == "" {
				first = got
				golden(t, filepath.Join(dir, "request_"+name+".golden"), got)
			}
			if got != first {
				t.Errorf("%s: the same chat encodes in two ways:\n%s\n%s", name, first, got)
			}
		}
	}
}

func decodes(t *testing.T, p Provider, dir string) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.json"))
	good, bad := 0, 0
	for _, file := range files { // STATUS_NAME.json
		status, err := strconv.Atoi(filepath.Base(file)[:3])
		if err != nil {
			t.Fatal(err)
		}
		body, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		resp, derr := p.Decode(status, http.Header{}, body)
		if derr == nil {
			good++
		} else {
			bad++
		}
		golden(t, strings.TrimSuffix(file, ".json")+".golden", describe(t, resp, derr))
	}
	if good == 0 || bad == 0 {
		t.Errorf("%s: want at least one good answer and one failure, named STATUS_NAME.json", dir)
	}
}

func describe(t *testing.T, resp *Response, err error) string {
	t.Helper()
	var b strings.Builder
	if resp != nil {
		u := resp.Usage
		fmt.Fprintf(&b, "text %q\nfinish %s\nmodel %s\n", resp.Text, resp.Finish, resp.Model)
		fmt.Fprintf(&b, "usage {Input:%d CacheRead:%d CacheWrite:%d Output:%d Reasoning:%d Known:%v}\n", u.Input, u.CacheRead, u.CacheWrite, u.Output, u.Reasoning, u.Known)
		if u.Cost != 0 {
			fmt.Fprintf(&b, "cost %d\n", u.Cost)
		}
	}
	if err != nil {
		e, ok := errors.AsType[*Error](err)
		if !ok {
			t.Fatalf("%v is no *Error", err)
		}
		if strings.Contains(e.Error(), "SECRET") {
			t.Errorf("%q echoes the provider", e)
		}
		fmt.Fprintf(&b, "class %s\ncode %q\nretry_after %v\nuncertain %v\n%s\n", e.Class, e.Code, e.RetryAfter, e.Uncertain, e)
	}
	return b.String()
}

func TestRegisterPanicsOnADuplicate(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	register(local{})
}

func TestNewStepRefuses(t *testing.T) {
	t.Parallel()
	hi := []Message{{"user", "hi"}}
	tests := []struct {
		name, provider, model string
		chat                  *Chat
		cfg                   *StepConfig
	}{
		{"unknown provider", "nobody", "m", &Chat{Messages: hi}, nil},
		{"custom without a name", "custom-", "m", &Chat{Messages: hi}, nil},
		{"custom with capitals", "custom-A", "m", &Chat{Messages: hi}, nil},
		{"no model", "openai", "", &Chat{Messages: hi}, nil},
		{"odd model", "openai", "m\x00", &Chat{Messages: hi}, nil},
		{"no chat", "openai", "m", nil, nil},
		{"no messages", "openai", "m", &Chat{}, nil},
		{"odd role", "openai", "m", &Chat{Messages: []Message{{"robot", "hi"}}}, nil},
		{"negative cap", "openai", "m", &Chat{Messages: hi, MaxTokens: -1}, nil},
		{"infinite temperature", "openai", "m", &Chat{Messages: hi, Temperature: ptr(math.Inf(1))}, nil},
		{"schema that is no object", "openai", "m", &Chat{Messages: hi, Schema: json.RawMessage(`[]`)}, nil},
		{"schema that is no JSON", "openai", "m", &Chat{Messages: hi, Schema: json.RawMessage(`{`)}, nil},
		{"schema name", "openai", "m", &Chat{Messages: hi, SchemaName: "a b"}, nil},
		{"attempts", "openai", "m", &Chat{Messages: hi}, &StepConfig{MaxAttempts: 6}},
		{"delay", "openai", "m", &Chat{Messages: hi}, &StepConfig{RetryDelayMS: 5001}},
		{"backoff", "openai", "m", &Chat{Messages: hi}, &StepConfig{Backoff: "fibonacci"}},
		{"timeout", "openai", "m", &Chat{Messages: hi}, &StepConfig{RequestTimeoutMS: -1}},
		{"local model", "local", "gpt", &Chat{Messages: hi}, nil},
		{"local JSON", "local", Extractive, &Chat{Messages: hi, JSON: true}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := NewStep(tt.provider, tt.model, tt.chat, tt.cfg)
			if _, ok := errors.AsType[*Error](err); !ok || ClassOf(err) != InvalidRequest {
				t.Errorf("err %v", err)
			}
		})
	}
}

func TestNewRawStep(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, model, body, want string }{
		{"the body's model", "", `{"model":"a","messages":[]}`, "a"},
		{"the same model", "a", `{"messages":[],"model":"a"}`, "a"},
		{"only the step's", "a", `{"messages":[]}`, "a"},
		{"the last of two", "", `{"model":"b","messages":[],"model":"a"}`, "a"},
		{"two models", "b", `{"model":"a","messages":[]}`, ""},
		{"no model", "", `{"messages":[]}`, ""},
		{"no messages", "a", `{"prompt":"x"}`, ""},
		{"a stream", "a", `{"messages":[],"stream" : true}`, ""},
		{"no stream", "a", `{"messages":[],"stream" : false}`, "a"},
		{"no object", "a", `[]`, ""},
		{"no JSON", "a", `{"messages":[]`, ""},
		{"two objects", "a", `{"messages":[]}{}`, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, err := NewRawStep("openai", tt.model, json.RawMessage(tt.body), nil)
			if s.Model != tt.want || (err == nil) != (tt.want != "") || err == nil && string(s.Query) != tt.body {
				t.Errorf("step %+v, err %v", s, err)
			}
			if err != nil && ClassOf(err) != InvalidRequest {
				t.Errorf("class %s", ClassOf(err))
			}
		})
	}
}

// FuzzDecode holds every decoder to its contract: no panic, an *Error on failure, counts that are never negative.
func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/*/*.json")
	for _, file := range files {
		body, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		status, _ := strconv.Atoi(filepath.Base(file)[:3])
		f.Add(status, body)
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		for _, name := range Providers() {
			p, _ := Lookup(name)
			resp, err := p.Decode(status, http.Header{}, body)
			if err == nil && (resp == nil || status/100 != 2) {
				t.Fatalf("status %d: resp %v without an error", status, resp)
			}
			if resp != nil {
				if u := resp.Usage; min(u.Input, u.CacheRead, u.CacheWrite, u.Output, u.Reasoning) < 0 || u.Reasoning > u.Output {
					t.Fatalf("usage %+v", u)
				}
				if strings.ContainsRune(resp.Text, 0) || len(resp.Model) > maxName {
					t.Fatalf("text %q, model %q", resp.Text, resp.Model)
				}
			}
			if err != nil {
				e, ok := errors.AsType[*Error](err)
				if !ok || e.Class == OK || len(e.Code) > 64 || e.RetryAfter < 0 || e.RetryAfter > maxWait {
					t.Fatalf("error %#v", err)
				}
			}
		}
	})
}

// FuzzField compares the quick scanner with package json on valid input.
func FuzzField(f *testing.F) {
	f.Add([]byte(`{"a":1,"model":"x\"\\","b":[{"model":2}],"model" : {"c":"}"} }`))
	f.Add([]byte(`{"model"`))
	f.Add([]byte(`{"model":`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got := field(body, "model")
		if !json.Valid(body) || bytes.ContainsRune(body, '\\') && bytes.Contains(body, []byte(`\u`)) {
			return
		}
		var want map[string]json.RawMessage
		if json.Unmarshal(body, &want) != nil || want == nil {
			return
		}
		if !bytes.Equal(got, bytes.TrimSpace(want["model"])) {
			t.Errorf("field of %q is %q, want %q", body, got, want["model"])
		}
	})
}
