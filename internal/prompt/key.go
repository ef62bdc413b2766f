package prompt

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
)

// Key names what decides an answer: equal keys may share one. It is a SHA-256.
type Key [sha256.Size]byte

// String returns the key in lower-case hexadecimal.
func (k Key) String() string { return hex.EncodeToString(k[:]) }

// MarshalText is String, so that a key is a string in JSON.
func (k Key) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, k[:]), nil }

// UnmarshalText accepts 64 hexadecimal digits.
func (k *Key) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(k)) {
		return errors.New("a key is 64 hexadecimal digits")
	}
	if _, err := hex.Decode(k[:], text); err != nil {
		return errors.New("a key is 64 hexadecimal digits")
	}
	return nil
}

// DeriveKey makes the key of something that is more than one request, such as a whole summary tree, from what decides
// it. kind separates the uses; every part is hashed with its length, so that no two lists of parts run together. It
// never equals a [Request.Key] or a [KeyRaw]: their input begins with a brace.
func DeriveKey(kind string, parts ...[]byte) Key {
	size := len(deriveVersion) + 8 + len(kind)
	for _, part := range parts {
		size += 8 + len(part)
	}
	buffer := borrowBuffer()
	defer giveBackBuffer(buffer)
	b := append((*buffer)[:0], deriveVersion...)
	b = binary.BigEndian.AppendUint64(b, uint64(len(kind)))
	b = append(b, kind...)
	if size <= maxPooled {
		for _, part := range parts {
			b = binary.BigEndian.AppendUint64(b, uint64(len(part)))
			b = append(b, part...)
		}
		*buffer = b
		return sha256.Sum256(b)
	}
	h := sha256.New()
	h.Write(b)
	for _, part := range parts {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(part))))
		h.Write(part)
	}
	*buffer = b
	return Key(h.Sum(nil))
}

const deriveVersion = "batchwright/derive/1\x00"

// passive are the members of a chat body that don't decide the answer: who asks and under which label (user,
// safety_identifier, metadata), how the answer travels (stream, stream_options) and whether the provider keeps it
// (store), how fast and at which price it comes (service_tier), and where the provider's own prefix cache looks
// (prompt_cache_key, prompt_cache_retention, prompt_cache_options).
//
// Everything else is in the key, what we don't know as well: a needless miss costs a call, a false hit a wrong answer.
func passive(name []byte) bool {
	switch string(name) {
	case "user", "safety_identifier", "metadata", "stream", "stream_options", "store", "service_tier",
		"prompt_cache_key", "prompt_cache_retention", "prompt_cache_options":
		return true
	}
	return false
}

// KeyRaw returns the key of a chat body in OpenAI's form that a user gave us, and the model it asks for. Two bodies
// that differ in white space, the order of members, the spelling of a number or a string, or in members that don't
// decide the answer (user, safety_identifier, metadata, stream, stream_options, store, service_tier and the
// prompt_cache_ options) have the same key. It is never the key of a [Request].
//
// A body that isn't a JSON object with a model, or in which two members of one object have the same name, is an
// [*Error].
func KeyRaw(body json.RawMessage) (Key, string, error) {
	start, _, k, err := wholeJSON(body)
	if err != nil {
		return Key{}, "", err
	}
	if k != kindObject {
		return Key{}, "", errorf("", "expected a chat request as a JSON object, got %s", k)
	}
	buffer := borrowBuffer()
	defer giveBackBuffer(buffer)
	c := borrowCanonicalizer()
	defer c.giveBack()

	var model []byte
	c.src = body
	c.top = func(name, value []byte) bool {
		if string(name) == "model" && value[0] == '"' {
			model, _ = appendUnquoted(model[:0], value)
		}
		return passive(name)
	}
	b := append((*buffer)[:0], `{"body":`...)
	b, _, err = c.value(b, start, 0)
	*buffer = b
	switch {
	case err != nil:
		return Key{}, "", err
	case len(model) == 0:
		return Key{}, "", errorf("model", "the request names no model")
	}
	b = append(b, `,"kind":"chat","v":1}`...)
	*buffer = b
	return sha256.Sum256(b), string(model), nil
}
