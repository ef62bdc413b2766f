package server

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

// Box seals the keys of providers, so that a copy of the database is worth nothing without the server's own key. It is
// safe for concurrent use.
type Box struct{ aead cipher.AEAD }

// BoxKeySize is the length of a box's key, in bytes.
const BoxKeySize = 32

// sealVersion begins each sealed secret: AES-256-GCM, then the nonce, the text and the tag.
const sealVersion = 1

var errSeal = errors.New("server: a stored key can't be opened: it was sealed with another key, or for another place")

// NewBox returns a box that seals with AES-256-GCM under a random nonce. The key is [BoxKeySize] random bytes; nonces stay
// unique with overwhelming odds for some billions of secrets.
func NewBox(key []byte) (*Box, error) {
	if len(key) != BoxKeySize {
		return nil, errors.New("server: the key that seals stored secrets must have 32 bytes")
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &Box{aead}, nil
}

// Seal encrypts the secret of an alias of a provider. It opens nowhere else: who can write rows but doesn't have the key
// can't move a secret to a gateway of theirs.
func (b *Box) Seal(secret, account, gateway, provider, alias string) []byte {
	return b.aead.Seal([]byte{sealVersion}, nil, []byte(secret), place(account, gateway, provider, alias))
}

// Open returns what was sealed for the same account, gateway, provider and alias. Its error names neither.
func (b *Box) Open(sealed []byte, account, gateway, provider, alias string) (string, error) {
	if len(sealed) == 0 || sealed[0] != sealVersion {
		return "", errSeal
	}
	secret, err := b.aead.Open(nil, nil, sealed[1:], place(account, gateway, provider, alias))
	if err != nil {
		return "", errSeal
	}
	return string(secret), nil
}

// place puts names behind their lengths, so that no two lists of names give the same bytes.
func place(names ...string) []byte {
	var b []byte
	for _, n := range names {
		b = binary.AppendUvarint(b, uint64(len(n)))
		b = append(b, n...)
	}
	return b
}
