package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"strings"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

// A token is bwg_ and 32 random bytes in base64url. The prefix lets scanners for leaked secrets find it.
const (
	tokenPrefix = "bwg_"
	tokenBytes  = 32
)

// newToken returns a token and what is stored of it.
func newToken() (token string, hash []byte) {
	var b [tokenBytes]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the process instead
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	sum := sha256.Sum256([]byte(token))
	return token, sum[:]
}

// isToken reports whether s has the form of a token, so that a provider's key in the same header costs no lookup.
func isToken(s string) bool {
	rest, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || len(rest) != base64.RawURLEncoding.EncodedLen(tokenBytes) {
		return false
	}
	_, err := base64.RawURLEncoding.DecodeString(rest)
	return err == nil
}

// mayUse reports whether a token is good for an account. The administrator's is good for all.
func mayUse(t store.GatewayToken, account string) bool {
	return t.ID == uuid.Nil || t.Account == account
}

// tokenOf returns what a bearer may do; false when it is nobody's token. The administrator's has no id. The error is the store's: who it
// was isn't known then.
func (s *Server) tokenOf(ctx context.Context, bearer string) (store.GatewayToken, bool, error) {
	hash := sha256.Sum256([]byte(bearer))
	if s.o.AdminToken != "" {
		admin := sha256.Sum256([]byte(s.o.AdminToken)) // hashes have one length, so the comparison tells nothing of it
		if subtle.ConstantTimeCompare(hash[:], admin[:]) == 1 {
			return store.GatewayToken{Name: "administrator", Run: true, Read: true, Edit: true}, true, nil
		}
	}
	if !isToken(bearer) {
		return store.GatewayToken{}, false, nil
	}
	t, err := s.directory.token(ctx, hash)
	if errors.Is(err, store.ErrNotFound) {
		return store.GatewayToken{}, false, nil
	}
	return t, err == nil, err
}
