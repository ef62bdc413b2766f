package gateway

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// walkAll writes down all that a cursor sees, with every key and string decoded.
func walkAll(c *cursor, b *strings.Builder) {
	switch c.kind() {
	case '{':
		b.WriteByte('{')
		c.object(func(key []byte) {
			b.WriteString(string([]rune(string(key)))) // keys are only compared, so that they are not made UTF-8
			b.WriteByte('=')
			walkAll(c, b)
			b.WriteByte(';')
		})
		b.WriteByte('}')
	case '[':
		b.WriteByte('[')
		c.array(func(int) { walkAll(c, b); b.WriteByte(';') })
		b.WriteByte(']')
	case '"':
		b.WriteString(c.text())
	default:
		b.Write(c.skip())
	}
}

// walkJSON is the same on package json.
func walkJSON(t *testing.T, raw []byte, b *strings.Builder) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	type level struct {
		object, key bool
	}
	var stack []level
	value := func() {
		if n := len(stack); n > 0 {
			if b.WriteByte(';'); stack[n-1].object {
				stack[n-1].key = true
			}
		}
	}
	for {
		tok, err := d.Token()
		if err != nil {
			return
		}
		switch v := tok.(type) {
		case json.Delim:
			b.WriteRune(rune(v))
			if v == '{' || v == '[' {
				stack = append(stack, level{v == '{', v == '{'})
				continue
			}
			stack = stack[:len(stack)-1]
		case string:
			if n := len(stack); n > 0 && stack[n-1].key {
				b.WriteString(v + "=")
				stack[n-1].key = false
				continue
			}
			b.WriteString(v)
		case json.Number:
			b.WriteString(v.String())
		case bool:
			if v {
				b.WriteString("true")
			} else {
				b.WriteString("false")
			}
		case nil:
			b.WriteString("null")
		default:
			t.Fatalf("token %v", tok)
		}
		value()
	}
}

// cursorSeeds are texts at the edge of JSON, right and wrong.
var cursorSeeds = []string{
	`{}`, `[]`, `""`, `0`, ` { "a" : [ 1 , -0.5e+10 , true , false , null , "x" ] , "a" : { } } `, `{"a":{"b":[[[]]]}}`,
	`"\"\\\/\b\f\n\r\t\u00e9\u0000"`, `"\ud83d\ude00"`, `"\ud83d"`, `"\ud83d\u0041"`, `"\ude00\ud83d"`, `"\ud83d\ud83d\ude00"`, `"é\u00e9"`,
	"\"\xff\xc3\\u00a9\"", "\"\xe2\x82\"", "\"a\x00\"", "\"a\x1f\"", "\"a\x7f\"", "\"12345678\x80\"", "\"1234567\\\"\"", "\"\xed\xa0\x80\"",
	`"`, `"\`, `"\u`, `"\u12`, `"\u12g4"`, `"\x"`, `"abc`, `{`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{a:1}`, `{"a" 1}`, `{1:1}`, `{,}`,
	`[`, `[1`, `[1,`, `[1,]`, `[,1]`, `[1 2]`, `[1}`, `{"a":1]`, `}`, `]`, ``, ` `, `1 2`, `{}{}`, `{} x`, "{}\x00",
	`01`, `-`, `-01`, `1.`, `.5`, `1e`, `1e+`, `+1`, `1.5E-3`, `-0`, `0x1`, `tru`, `truee`, `nul`, `True`, `NaN`, "\u00a0{}", "\ufeff{}",
	`{"\u0061\"":1}`, "{\"\xff\":1}",
}

// FuzzCursor holds the cursor to package json: both call the same texts JSON, and read the same out of them.
func FuzzCursor(f *testing.F) {
	for _, s := range cursorSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := cursor{b: raw}
		skipped := c.skip()
		if ok := c.whole(); ok != json.Valid(raw) {
			t.Fatalf("%q: the cursor says %v, package json %v", raw, ok, !ok)
		} else if !ok {
			return
		}
		if string(skipped) != string(bytes.TrimSpace(raw)) {
			t.Errorf("%q: skipped %q", raw, skipped)
		}
		var got, want strings.Builder
		c = cursor{b: raw}
		walkAll(&c, &got)
		walkJSON(t, raw, &want)
		if !c.whole() || got.String() != strings.ReplaceAll(want.String(), "\x00", "\uFFFD") {
			t.Errorf("%q:\ngot  %q\nwant %q", raw, got.String(), want.String())
		}
		if !utf8.ValidString(got.String()) {
			t.Errorf("%q: not UTF-8: %q", raw, got.String())
		}
	})
}

func TestCursorBoundsDepth(t *testing.T) {
	t.Parallel()
	for _, pair := range [][2]string{{"[", "]"}, {`{"a":`, "}"}} {
		for _, n := range []int{maxDepth, maxDepth + 1, 1 << 20} {
			inner := ""
			if pair[1] == "}" {
				inner = "1"
			}
			text := []byte(strings.Repeat(pair[0], n) + inner + strings.Repeat(pair[1], n))
			c := cursor{b: text}
			c.skip()
			if c.whole() != json.Valid(text) || c.whole() != (n <= maxDepth) {
				t.Errorf("%d of %s: whole %v", n, pair[0], c.whole())
			}
		}
	}
}

func TestCursorPassesOverOtherTypes(t *testing.T) {
	t.Parallel()
	c := cursor{b: []byte(`[{"a":1},[2],"s",3,null,true,{"a":4}]`)}
	var seen []string
	c.array(func(n int) {
		switch n % 3 {
		case 0:
			c.object(func(key []byte) { seen = append(seen, string(key)+string(c.skip())) })
		case 1:
			c.array(func(int) { seen = append(seen, string(c.skip())) })
		case 2:
			seen = append(seen, c.text())
		}
	})
	if got := strings.Join(seen, " "); !c.whole() || got != "a1 2 s  a4" {
		t.Errorf("%q, whole %v", got, c.whole())
	}
}
