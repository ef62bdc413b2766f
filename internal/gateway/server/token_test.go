package server

import (
	"testing"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

func TestTokenForm(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 100 {
		token, hash := newToken()
		if len(token) != len(tokenPrefix)+43 || !isToken(token) || len(hash) != 32 || seen[token] {
			t.Fatalf("token %q, hash of %d bytes", token, len(hash))
		}
		seen[token] = true
	}
	token, _ := newToken()
	for _, s := range []string{"", "bwg_", token[4:], token + "x", token[:len(token)-1], token[:len(token)-1] + "+", "sk-" + token[3:]} {
		if isToken(s) {
			t.Errorf("%q is taken for a token", s)
		}
	}
}

func TestTokenOf(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	token, hash := newToken()
	made, err := d.db.CreateGatewayToken(t.Context(), store.GatewayToken{Account: "acc", Name: "n", Run: true}, hash)
	if err != nil {
		t.Fatal(err)
	}
	if got, ok, err := d.server.tokenOf(t.Context(), token); err != nil || !ok || got.ID != made.ID || !mayUse(got, "acc") || mayUse(got, "other") {
		t.Errorf("%+v %v %v", got, ok, err)
	}
	if got, ok, err := d.server.tokenOf(t.Context(), deskAdmin); err != nil || !ok || !got.Run || !got.Read || !got.Edit || got.ID != uuid.Nil || !mayUse(got, "any") {
		t.Errorf("administrator: %+v %v %v", got, ok, err)
	}
	other, _ := newToken()
	for _, s := range []string{"", other, deskAdmin + "x", "sk-provider"} {
		if _, ok, err := d.server.tokenOf(t.Context(), s); ok || err != nil {
			t.Errorf("%q: %v %v", s, ok, err)
		}
	}
	// Without a configured token nobody is administrator, and least of all who sends nothing.
	s := &Server{o: Options{DB: d.db}}
	s.directory = newDirectory(s)
	if _, ok, err := s.tokenOf(t.Context(), ""); ok || err != nil {
		t.Errorf("nothing is the administrator's: %v %v", ok, err)
	}
}
