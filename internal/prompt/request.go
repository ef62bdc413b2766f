package prompt

import (
	"crypto/sha256"
	"encoding/json"
	"hash"
	"math"
	"strconv"
	"sync"
)

// Request is what decides an answer, and nothing else.
type Request struct {
	Model       string // as asked for
	Messages    []Message
	MaxTokens   int      // of the answer; 0 is the provider's default
	Temperature *float64 // nil is the provider's default, as below
	TopP        *float64
	Seed        *int64
	Stop        []string
	JSON        bool            // the answer must be JSON
	Schema      json.RawMessage // JSON Schema that it must meet, if any

	// canonicalSchema is Schema in canonical form, when a Template made the request: then Schema is not parsed again.
	canonicalSchema json.RawMessage
}

// Key names the request: SHA-256 over its RFC 8785 canonical JSON, which is
//
//	{"json":true,"max_tokens":300,"messages":[{"content":"…","role":"user"}],"model":"…","schema":{…},
//	 "seed":1,"stop":["…"],"temperature":0,"top_p":1,"v":1}
//
// without the members that aren't set. A seed beyond 2^53, which a double can't hold, is a string of its digits.
func (r *Request) Key() Key {
	buffer := borrowBuffer()
	b := r.appendHead((*buffer)[:0])
	b = appendString(b, r.Model)
	b = r.appendTail(b)
	k := Key(sha256.Sum256(b))
	*buffer = b
	giveBackBuffer(buffer)
	return k
}

// Keys returns the key that the request would have for each model. What the models share is written and hashed once.
func (r *Request) Keys(models []string) []Key {
	keys := make([]Key, len(models))
	buffer := borrowBuffer()
	defer giveBackBuffer(buffer)
	b := r.appendHead((*buffer)[:0])
	head := len(b)
	b = r.appendTail(b)
	tail := len(b)

	shared, cloneable := sha256.New().(hash.Cloner)
	if !cloneable || head < minShared {
		for i, model := range models {
			b = append(b[:tail], b[:head]...)
			b = appendString(b, model)
			b = append(b, b[head:tail]...)
			keys[i] = sha256.Sum256(b[tail:])
		}
		*buffer = b
		return keys
	}
	shared.Write(b[:head])
	for i, model := range models {
		b = appendString(b[:tail], model)
		b = append(b, b[head:tail]...)
		h, err := shared.Clone()
		if err != nil {
			panic("prompt: SHA-256 can't be cloned: " + err.Error()) // the standard library's can
		}
		h.Write(b[tail:])
		h.Sum(keys[i][:0])
	}
	*buffer = b
	return keys
}

// minShared is from how many bytes on it is cheaper to copy a hash's state than to hash again.
const minShared = 512

// appendHead writes what comes before the model.
func (r *Request) appendHead(b []byte) []byte {
	b = append(b, '{')
	if r.JSON {
		b = append(b, `"json":true,`...)
	}
	if r.MaxTokens > 0 {
		b = append(b, `"max_tokens":`...)
		b = appendInteger(b, int64(r.MaxTokens))
		b = append(b, ',')
	}
	b = append(b, `"messages":[`...)
	for i, m := range r.Messages {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"content":`...)
		b = appendString(b, m.Content)
		b = append(b, `,"role":`...)
		b = appendString(b, m.Role)
		b = append(b, '}')
	}
	return append(b, `],"model":`...)
}

// appendTail writes what comes after the model.
func (r *Request) appendTail(b []byte) []byte {
	if len(r.Schema) > 0 {
		b = r.appendSchema(b)
	}
	if r.Seed != nil {
		b = append(b, `,"seed":`...)
		b = appendInteger(b, *r.Seed)
	}
	if len(r.Stop) > 0 {
		b = append(b, `,"stop":[`...)
		for i, s := range r.Stop {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, s)
		}
		b = append(b, ']')
	}
	if r.Temperature != nil {
		b = append(b, `,"temperature":`...)
		b = appendDouble(b, *r.Temperature)
	}
	if r.TopP != nil {
		b = append(b, `,"top_p":`...)
		b = appendDouble(b, *r.TopP)
	}
	return append(b, `,"v":1}`...)
}

func (r *Request) appendSchema(b []byte) []byte {
	const name = `,"schema":`
	if c := r.canonicalSchema; len(c) > 0 && len(c) == len(r.Schema) && &c[0] == &r.Schema[0] {
		return append(append(b, name...), c...)
	}
	undo := len(b)
	b, err := appendCanonical(append(b, name...), r.Schema)
	if err != nil {
		// Compile refuses such a schema. A key has no error, so the text stands for itself under another name.
		b = appendString(append(b[:undo], `,"schema_text":`...), []byte(r.Schema))
	}
	return b
}

// appendInteger writes n, as a string if a double can't hold it.
func appendInteger(b []byte, n int64) []byte {
	if n > 1<<53 || n < -1<<53 {
		b = append(b, '"')
		b = strconv.AppendInt(b, n, 10)
		return append(b, '"')
	}
	return strconv.AppendInt(b, n, 10)
}

// appendDouble writes f; what JSON has no number for is a string.
func appendDouble(b []byte, f float64) []byte {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return appendString(b, strconv.FormatFloat(f, 'g', -1, 64))
	}
	return appendFloat(b, f)
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 4096); return &b }}

func borrowBuffer() *[]byte { return buffers.Get().(*[]byte) }

func giveBackBuffer(b *[]byte) {
	if cap(*b) <= maxPooled {
		buffers.Put(b)
	}
}
