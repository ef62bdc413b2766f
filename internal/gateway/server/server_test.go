package server

import (
	"net/http"
	"testing"

	"github.com/google/uuid"
)

func mustUUID(t *testing.T, s string) uuid.UUID {
	t.Helper()
	id, err := uuid.Parse(s)
	if err != nil {
		t.Fatalf("log id %q: %v", s, err)
	}
	return id
}

const chatBody = `{"model":"gpt-4o-mini","messages":[{"role":"user","content":"hé <&>  \u00e9"}]}`

func TestNativeRequestPassesThrough(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	r := l.post("/openai/v1/chat/completions?x=1&y=%2F", chatBody, "X-Custom", "kept", "Cf-Aig-Event-Id", "row-7", "Cf-Aig-Unknown", "z", "Cookie", "a=b")
	got := l.last()
	if r.status != 200 || r.body != chatAnswer || got.body != chatBody {
		t.Fatalf("answer %d %s for body %s", r.status, r.body, got.body)
	}
	if got.path != "/openai/v1/chat/completions" || got.query != "x=1&y=%2F" || got.header.Get("X-Custom") != "kept" ||
		got.header.Get("Authorization") != "Bearer sk-provider-key" || got.header.Get("Cf-Aig-Event-Id") != "" || got.header.Get("Cookie") != "" {
		t.Errorf("provider got %+v", got)
	}
	id := r.header.Get("Cf-Aig-Log-Id")
	if mustUUID(t, id).Version() != 7 || r.header.Get("Cf-Aig-Request-Id") != id || r.header.Get("Cf-Aig-Event-Id") != "row-7" ||
		r.header.Get("Cf-Aig-Step") != "0" || r.header.Get("Cf-Aig-Cache-Status") != "MISS" {
		t.Errorf("headers %v", r.header)
	}
	row := l.logged(r)
	if row.Provider != "openai" || row.Model != "gpt-4o-mini" || row.TokensIn != 100 || row.TokensOut != 10 || row.CostNanoUSD == nil ||
		*row.CostNanoUSD != 100*150+10*600 || !row.Success || row.EventID != "row-7" {
		t.Errorf("log %+v", row)
	}
}

func TestUniversalFallsBack(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	l.script(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/openai/chat/completions" {
			http.Error(w, "no", http.StatusNotFound)
			return
		}
		_, _ = w.Write([]byte("second"))
	})
	r := l.do(http.MethodPost, l.url+"/", `[{"provider":"openai","endpoint":"chat/completions","headers":{"Authorization":"Bearer k1"},"query":{"model" : "a"}},
		{"provider":"anthropic","endpoint":"v1/messages","headers":{"x-api-key":"k2","x-num":5,"x-obj":{"a": 1}},"query":{"b":[1, 2]}}]`)
	got := l.last()
	if r.status != 200 || r.body != "second" || r.header.Get("Cf-Aig-Step") != "1" {
		t.Fatalf("%d %q %v", r.status, r.body, r.header)
	}
	if got.body != `{"b":[1, 2]}` || got.header.Get("X-Num") != "5" || got.header.Get("X-Obj") != `{"a": 1}` || got.header.Get("X-Api-Key") != "k2" {
		t.Errorf("second step got %+v", got)
	}
}
