package jsonspan_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"batchwright/internal/gateway/jsonspan"
)

// FuzzSpans compares what is found with package encoding/json on valid input, and asks for no more than an end on other.
func FuzzSpans(f *testing.F) {
	for _, seed := range []string{
		`{"a":1,"model":"x\"\\","b":[{"model":2},[],"]"],"model" : {"c":"}"} }`, ` [1, "a,b" ,{"x":[]}, [ ] ,null]`,
		`{}`, `[]`, `{"a"`, `{"a":`, `[1,`, `["`, `{"\u0061":1}`, "{\"a\"\n:\t-1.5e+3\r}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var values [][]byte
		object := jsonspan.Members(b, func(_ []byte, v jsonspan.Span) bool {
			values = append(values, v.Of(b))
			return true
		})
		var list [][]byte
		array := jsonspan.Elements(b, func(v jsonspan.Span) bool {
			list = append(list, v.Of(b))
			return true
		})
		if !json.Valid(b) {
			return
		}
		first := bytes.TrimLeft(b, " \t\r\n")[0]
		if object != (first == '{') || array != (first == '[') {
			t.Fatalf("%q: object %v, array %v", b, object, array)
		}
		for _, v := range append(values, list...) {
			if !json.Valid(v) {
				t.Fatalf("%q: %q is no value", b, v)
			}
		}
		var want []json.RawMessage
		if array && json.Unmarshal(b, &want) == nil {
			if len(want) != len(list) {
				t.Fatalf("%q has %d elements, found %d", b, len(want), len(list))
			}
			for i := range want {
				if !bytes.Equal(want[i], list[i]) {
					t.Fatalf("%q: element %d is %q, want %q", b, i, list[i], want[i])
				}
			}
		}
	})
}

func TestMembersStopWhenTold(t *testing.T) {
	t.Parallel()
	n := 0
	jsonspan.Members([]byte(`{"a":1,"b":2}`), func([]byte, jsonspan.Span) bool {
		n++
		return false
	})
	jsonspan.Elements([]byte(`[1,2]`), func(jsonspan.Span) bool {
		n++
		return false
	})
	if n != 2 {
		t.Errorf("called %d times", n)
	}
}
