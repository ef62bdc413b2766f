package server

import (
	"context"
	"encoding/json"
	"testing"
	"time"
)

// age makes all that the directory holds older.
func (l *lab) age(d time.Duration) {
	dir := l.server.directory
	dir.mu.Lock()
	defer dir.mu.Unlock()
	for k, v := range dir.views {
		old := *v
		old.loaded = old.loaded.Add(-d)
		dir.views[k] = &old
	}
	for k, e := range dir.tokens {
		e.loaded = e.loaded.Add(-d)
		dir.tokens[k] = e
	}
}

func TestChangeOfAnotherProcessIsSeen(t *testing.T) {
	t.Parallel()
	l := newLab(t, nil)
	if got := l.post("/openai/x", `{}`); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	raw, _ := json.Marshal(DefaultSettings()) // authentication on
	if _, err := l.db.UpdateGateway(context.Background(), "acc", "gw", raw); err != nil {
		t.Fatal(err)
	}
	l.age(freshFor)
	if got := l.post("/openai/x", `{}`); got.status != 401 {
		t.Errorf("%d %s", got.status, got.body)
	}
	if _, err := l.db.DeleteGateway(context.Background(), "acc", "gw"); err != nil {
		t.Fatal(err)
	}
	l.age(freshFor)
	if got := l.post("/openai/x", `{}`); got.status != 400 || got.code() != 2001 {
		t.Errorf("after it was deleted: %d %s", got.status, got.body)
	}
}

func TestKnownGatewayServesOnWithoutPostgres(t *testing.T) {
	t.Parallel()
	l := newLab(t, map[string]any{"authentication": true, "collect_logs": false})
	token := l.token("acc", true)
	ask := func() reply { return l.post("/openai/x", `{}`, "Cf-Aig-Authorization", "Bearer "+token) }
	if got := ask(); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	l.db.Close()
	l.age(freshFor)
	if got := ask(); got.status != 200 {
		t.Errorf("%d %s", got.status, got.body)
	}
	l.age(staleFor)
	if got := ask(); got.status != 503 || got.header.Get("Retry-After") != "1" {
		t.Errorf("after minutes: %d %s", got.status, got.body)
	}
}
