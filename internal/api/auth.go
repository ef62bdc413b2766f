package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"batchwright/internal/store"
)

const (
	keyPrefix = "bw_"
	keyTTL    = 10 * time.Second // how long a revoked key may still work
	maxKeys   = 10_000           // remembered at once
	maxKeyLen = 200              // bytes
)

// keyring finds the project of an API key. It remembers good keys for a short while; bad ones are looked up each time,
// so that guesses can't push good keys out.
type keyring struct {
	lookup func(ctx context.Context, keySHA256 [32]byte) (store.Project, error)

	mu   sync.Mutex
	seen map[[32]byte]seenKey
}

type seenKey struct {
	project store.Project
	until   time.Time
}

func newKeyring(lookup func(context.Context, [32]byte) (store.Project, error)) *keyring {
	return &keyring{lookup: lookup, seen: map[[32]byte]seenKey{}}
}

// project reads an Authorization header. A key that is missing, malformed or unknown is a 401 problem.
func (k *keyring) project(ctx context.Context, authorization string) (store.Project, error) {
	scheme, key, _ := strings.Cut(authorization, " ")
	key = strings.TrimSpace(key)
	if authorization == "" || !strings.EqualFold(scheme, "Bearer") {
		return store.Project{}, unauthorized("", "send an API key: Authorization: Bearer bw_...")
	}
	if !strings.HasPrefix(key, keyPrefix) || len(key) > maxKeyLen {
		return store.Project{}, unauthorized("invalid_token", "this is not an API key; keys begin with bw_")
	}
	sum := sha256.Sum256([]byte(key))
	if p, ok := k.recall(sum); ok {
		return p, nil
	}
	p, err := k.lookup(ctx, sum)
	if errors.Is(err, store.ErrNotFound) {
		return store.Project{}, unauthorized("invalid_token", "the API key is unknown or revoked")
	}
	if err != nil {
		return store.Project{}, err
	}
	k.remember(sum, p)
	return p, nil
}

func (k *keyring) recall(sum [32]byte) (store.Project, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s, ok := k.seen[sum]
	return s.project, ok && time.Now().Before(s.until)
}

func (k *keyring) remember(sum [32]byte, p store.Project) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := time.Now()
	if len(k.seen) >= maxKeys {
		for old, s := range k.seen {
			if !now.Before(s.until) {
				delete(k.seen, old)
			}
		}
	}
	for old := range k.seen { // still full: forget any
		if len(k.seen) < maxKeys {
			break
		}
		delete(k.seen, old)
	}
	k.seen[sum] = seenKey{p, now.Add(keyTTL)}
}

func unauthorized(code, detail string) error {
	challenge := `Bearer realm="batchwright"`
	if code != "" {
		challenge += `, error="` + code + `"`
	}
	return &problem{status: http.StatusUnauthorized, detail: detail, header: http.Header{"Www-Authenticate": {challenge}}}
}

type projectKey struct{}

func withProject(ctx context.Context, p store.Project) context.Context {
	return context.WithValue(ctx, projectKey{}, p)
}

// projectOf returns the project that the request's key acts for. An operation that is open has none: asking for it is
// a bug, and fails closed.
func projectOf(ctx context.Context) store.Project {
	p, ok := ctx.Value(projectKey{}).(store.Project)
	if !ok {
		panic("api: no project: the operation is open in the contract")
	}
	return p
}
