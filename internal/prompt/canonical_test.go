package prompt

import (
	"bytes"
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"
	"pgregory.net/rapid"
)

// The vectors of RFC 8785: sections 3.2.2, 3.2.3 and appendix B.
func TestCanonicalVectors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, in, want string }{
		{
			"3.2.2",
			`{
  "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
  "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
  "literals": [null, true, false]
}`,
			`{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}`,
		},
		{
			"3.2.3",
			`{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`,
			"{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"ö\":\"Latin Small Letter O With Diaeresis\",\"€\":\"Euro Sign\",\"😀\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}",
		},
		{"empty", " [ { } , [ ] , \"\" ] ", `[{},[],""]`},
		{"prefix", `{"ab":1,"a":2,"":3}`, `{"":3,"a":2,"ab":1}`},
		{"nested", `{"b":{"d":1,"c":{"f":[{"z":1,"y":2}],"e":2}},"a":1}`, `{"a":1,"b":{"c":{"e":2,"f":[{"y":2,"z":1}]},"d":1}}`},
		{"escapes", `"\b\f\n\r\t\u0000\u001f\u007f\u2028<>&"`, "\"\\b\\f\\n\\r\\t\\u0000\\u001f\u007f\u2028<>&\""},
	} {
		got, err := appendCanonical(nil, []byte(c.in))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %v\n got %s\nwant %s", c.name, err, got, c.want)
		}
	}
}

func TestCanonicalNumbers(t *testing.T) {
	t.Parallel()
	for bits, want := range map[uint64]string{
		0x0000000000000000: "0",
		0x8000000000000000: "0",
		0x0000000000000001: "5e-324",
		0x8000000000000001: "-5e-324",
		0x7fefffffffffffff: "1.7976931348623157e+308",
		0xffefffffffffffff: "-1.7976931348623157e+308",
		0x4340000000000000: "9007199254740992",
		0xc340000000000000: "-9007199254740992",
		0x4430000000000000: "295147905179352830000",
		0x44b52d02c7e14af5: "9.999999999999997e+22",
		0x44b52d02c7e14af6: "1e+23",
		0x44b52d02c7e14af7: "1.0000000000000001e+23",
		0x444b1ae4d6e2ef4e: "999999999999999700000",
		0x444b1ae4d6e2ef4f: "999999999999999900000",
		0x444b1ae4d6e2ef50: "1e+21",
		0x3eb0c6f7a0b5ed8c: "9.999999999999997e-7",
		0x3eb0c6f7a0b5ed8d: "0.000001",
		0x41b3de4355555553: "333333333.3333332",
		0x41b3de4355555554: "333333333.33333325",
		0x41b3de4355555555: "333333333.3333333",
		0x41b3de4355555556: "333333333.3333334",
		0x41b3de4355555557: "333333333.33333343",
		0xbecbf647612f3696: "-0.0000033333333333333333",
		0x43143ff3c1cb0959: "1424953923781206.2",
	} {
		f := math.Float64frombits(bits)
		if got := string(appendFloat(nil, f)); got != want {
			t.Errorf("%016x: got %s, want %s", bits, got, want)
		}
	}
	for in, want := range map[string]string{
		"-0": "0", "1.0": "1", "10": "10", "-15": "-15", "1e2": "100", "1E-7": "1e-7", "123456789012345": "123456789012345",
		"9007199254740993":  "9007199254740993", // not the RFC's 9007199254740992: another seed is another request
		"-9007199254740993": "-9007199254740993",
		"9007199254740994":  "9007199254740994",
		"9007199254740992":  "9007199254740992",
	} {
		if got, ok := appendNumber(nil, []byte(in)); !ok || string(got) != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	if _, ok := appendNumber(nil, []byte("1e999")); ok {
		t.Error("1e999 is beyond a double")
	}
}

// keepsDigits reports whether a JSON text has an integer that we keep and the RFC rounds.
func keepsDigits(raw []byte) bool {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return false
		}
		if n, ok := token.(json.Number); ok && len(n) > 15 && !strings.ContainsAny(string(n), ".eE") {
			return true
		}
	}
}

func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{
		`{"b":1,"a":[1.50,true,null,"\u00e9\ud83d\ude00"]}`, `"\ud800"`, `{"a":1,"a":2}`, `[1e400]`, `{"":{"":{}}}`, " 1 ", `{"\u0000":"\"\\\/"}`,
		`{"￰":1,"😀":2,"힣":3,"":4}`, `-0.0`, `1e21`, `tru`, `[1,]`, `{"a":}`, "\"\x7f\"", `123456789012345678901`, "\xff",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		got, err := appendCanonical(nil, raw)
		if err == nil != json.Valid(raw) && err == nil {
			t.Fatalf("accepted what isn't JSON: %q", raw)
		}
		if keepsDigits(raw) {
			return
		}
		want, jcsErr := jcs.Transform(raw)
		if err != nil {
			// The library takes a few things that aren't JSON, such as 0x1 or NaN forms; we take nothing it doesn't.
			if jcsErr == nil && json.Valid(raw) && !strings.Contains(err.Error(), "deeper") {
				t.Fatalf("refused %q: %v", raw, err)
			}
			return
		}
		if jcsErr != nil {
			t.Fatalf("accepted %q, jcs says %v", raw, jcsErr)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("%q\n got %s\nwant %s", raw, got, want)
		}
		again, err := appendCanonical(nil, got)
		if err != nil || !bytes.Equal(again, got) {
			t.Fatalf("not a fixed point: %s", got)
		}
	})
}

func FuzzScanAgreesWithEncodingJSON(f *testing.F) {
	for _, seed := range []string{`{}`, `[1,2.5e-3]`, `"a\u12"`, `{"a":[{}],"b":-}`, `nul`, "\"\n\"", ` [ ] x`, `01`, `1.`, `{"a" 1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		_, _, _, err := wholeJSON(raw)
		want := json.Valid(raw) && invalidUTF8(raw) == len(raw)
		if (err == nil) != want && (err == nil || !strings.Contains(err.Error(), "deeper")) {
			t.Fatalf("%q: %v, want valid %v", raw, err, want)
		}
		var decoded string
		if err == nil && json.Unmarshal(raw, &decoded) == nil && bytes.HasPrefix(bytes.TrimSpace(raw), []byte(`"`)) {
			if text, _ := appendUnquoted(nil, bytes.Trim(raw, " \t\r\n")); string(text) != decoded {
				t.Fatalf("%q: got %q, want %q", raw, text, decoded)
			}
		}
	})
}

// The member order, spacing and spelling of a text must not matter.
func TestStableFormIgnoresOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		v := anyJSON(3).Draw(t, "value")
		raw, err := json.Marshal(v)
		if err != nil {
			t.Skip()
		}
		var indented bytes.Buffer
		_ = json.Indent(&indented, raw, " ", "\t")
		if a, b := appendStable(nil, raw), appendStable(nil, indented.Bytes()); !bytes.Equal(a, b) {
			t.Fatalf("%s\n%s", a, b)
		}
	})
}

func TestStableFormKeepsTheLastOfTwoMembers(t *testing.T) {
	t.Parallel()
	if got := string(appendStable(nil, []byte(`{"b":1.0,"a":1,"b":2.00}`))); got != `{"a":1,"b":2.00}` {
		t.Error(got)
	}
}

func TestUTF16Order(t *testing.T) {
	t.Parallel()
	name := rapid.StringOfN(rapid.OneOf(rapid.Rune(), rapid.SampledFrom([]rune{'a', 0xd7ff, 0xe000, 0xffff, 0x10000, 0x10ffff})), 0, 4, -1)
	rapid.Check(t, func(t *rapid.T) {
		a, b := name.Draw(t, "a"), name.Draw(t, "b")
		raw := `{` + strconv.Quote("") + `:0}`
		x, _ := json.Marshal(a)
		y, _ := json.Marshal(b)
		if a != b {
			raw = `{` + string(x) + `:1,` + string(y) + `:2}`
		}
		got, err := appendCanonical(nil, []byte(raw))
		want, jcsErr := jcs.Transform([]byte(raw))
		if err != nil || jcsErr != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s\n got %s %v\nwant %s %v", raw, got, err, want, jcsErr)
		}
	})
}

func anyJSON(depth int) *rapid.Generator[any] {
	scalars := rapid.OneOf(
		rapid.Just[any](nil), rapid.Map(rapid.Bool(), toAny), rapid.Map(rapid.String(), toAny), rapid.Map(rapid.Float64(), toAny))
	if depth == 0 {
		return scalars
	}
	inner := anyJSON(depth - 1)
	return rapid.OneOf(scalars, rapid.Map(rapid.SliceOfN(inner, 0, 4), toAny), rapid.Map(rapid.MapOfN(rapid.String(), inner, 0, 4), toAny))
}

func toAny[T any](v T) any { return v }
