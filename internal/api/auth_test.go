package api

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"batchwright/internal/store"
)

func TestKeyringAsksAgainAfterTenSeconds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		lookups, revoked := 0, false
		k := newKeyring(func(context.Context, [32]byte) (store.Project, error) {
			lookups++
			if revoked {
				return store.Project{}, fmt.Errorf("query: %w", store.ErrNotFound)
			}
			return store.Project{Name: "p"}, nil
		})
		ask := func() error {
			p, err := k.project(t.Context(), "bearer  bw_key")
			if err == nil && p.Name != "p" {
				t.Errorf("project %+v", p)
			}
			return err
		}
		for range 3 {
			if err := ask(); err != nil {
				t.Fatal(err)
			}
		}
		revoked = true
		<-time.After(keyTTL - time.Millisecond)
		if err := ask(); err != nil || lookups != 1 {
			t.Errorf("%d look-ups, %v: want the first one to be remembered", lookups, err)
		}
		<-time.After(time.Millisecond)
		var p *problem
		if err := ask(); !errors.As(err, &p) || p.status != 401 {
			t.Errorf("a revoked key got %v", err)
		}
	})
}

func TestKeyringIsBoundedAndKeepsGuessesOut(t *testing.T) {
	t.Parallel()
	good := true
	k := newKeyring(func(context.Context, [32]byte) (store.Project, error) {
		if good {
			return store.Project{}, nil
		}
		return store.Project{}, store.ErrNotFound
	})
	for n := range maxKeys + 50 {
		if _, err := k.project(t.Context(), fmt.Sprint("Bearer bw_", n)); err != nil {
			t.Fatal(err)
		}
	}
	good = false
	for n := range 50 {
		if _, err := k.project(t.Context(), fmt.Sprint("Bearer bw_guess", n)); err == nil {
			t.Fatal("a guess was let in")
		}
	}
	if len(k.seen) != maxKeys {
		t.Errorf("%d keys remembered, want %d", len(k.seen), maxKeys)
	}
}

func TestKeyringPassesFaultsOn(t *testing.T) {
	t.Parallel()
	down := errors.New("down")
	k := newKeyring(func(context.Context, [32]byte) (store.Project, error) { return store.Project{}, down })
	if _, err := k.project(t.Context(), "Bearer bw_key"); !errors.Is(err, down) {
		t.Errorf("%v: a database that is down must not look like a wrong key", err)
	}
}
