package prompt

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func compile(t testing.TB, spec string) *Template {
	t.Helper()
	s, err := ParseSpec(json.RawMessage(spec))
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := Compile(s)
	if err != nil {
		t.Fatal(err)
	}
	return tmpl
}

// declare makes variables for tests: "s n? a" are a string, an optional number and an array, by their first letters.
func declare(names string) map[string]Variable {
	kinds := map[byte]Type{'s': TypeString, 'n': TypeNumber, 'i': TypeInteger, 'b': TypeBoolean, 'a': TypeArray, 'o': TypeObject}
	variables := map[string]Variable{}
	for _, name := range strings.Fields(names) {
		name, optional := strings.CutSuffix(name, "?")
		v := Variable{Type: kinds[name[0]]}
		if optional {
			no := false
			v.Required = &no
		}
		variables[name] = v
	}
	return variables
}

func TestRender(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, user, declared, vars, want string }{
		{"plain", "Hi {{.s}}!", "s", `{"s":"Bé\u0021\n\"x\""}`, "Hi Bé!\n\"x\"!"},
		{"number keeps its text", "{{.n}} {{.n1}} {{.n2}}", "n n1 n2", `{"n":1.50,"n1":1e3,"n2":123456789012345678901234567890}`,
			"1.50 1e3 123456789012345678901234567890"},
		{"number keeps its text in an expression", "{{print .n}} {{.n | printf \"%s\"}}", "n", `{"n":1.50}`, "1.50 1.50"},
		{"boolean", "{{.b}}", "b", `{"b":true}`, "true"},
		{"array and object are stable JSON", "{{.a}} {{.o}}", "a o", `{"a":[1.0, "<é>"],"o":{ "b":1, "a":{"d":null,"c":[]}}}`,
			`[1.0,"<é>"] {"a":{"c":[],"d":null},"b":1}`},
		{"the same through functions", `{{json .a}} {{print .o}} {{printf "%v" .o}}`, "a o", `{"a":[1.0, "<é>"],"o":{"b":1,"a":2}}`,
			`[1.0,"<é>"] {"a":2,"b":1} {"a":2,"b":1}`},
		{"all variables as JSON", `{{json .}}`, "s n?", `{"s":"x"}`, `{"n":null,"s":"x"}`},
		{"what isn't given is empty", "<{{.s}}|{{.n}}|{{.b}}|{{.a}}|{{.o}}>", "s? n? b? a? o?", `{}`, "<||false|[]|{}>"},
		{"what isn't given is empty in an expression", "<{{print .s .n}}{{if .n}}no{{end}}{{range .a}}no{{end}}{{with .o}}no{{end}}>", "s? n? a? o?", `{}`, "<>"},
		{"null is not given", "<{{.s}}>", "s?", `{"s":null}`, "<>"},
		{"default function", `{{default "none" .s}} {{.n | default "n/a"}} {{default "x" .o.missing2}}`, "s? n? o", `{"o":{"missing2":null}}`, "none n/a x"},
		{"zero and false are not empty", `{{default 7 .n}} {{default true .b}}`, "n b", `{"n":0,"b":false}`, "0 false"},
		{"range over an array", `{{range $i, $x := .a}}{{$i}}={{$x}};{{else}}none{{end}}`, "a", `{"a":["p",2.0,null]}`, "0=p;1=2.0;2=null;"},
		{"range over an object is sorted", `{{range $k, $v := .o}}{{$k}}={{$v}};{{end}}`, "o", `{"o":{"z":1,"a":2,"m":3}}`, "a=2;m=3;z=1;"},
		{"range over a count", `{{range 3}}x{{end}}{{.s}}`, "s", `{"s":""}`, "xxx"},
		{"root inside a range", `{{range .a}}{{.}}{{$.s}}{{end}}`, "a s", `{"a":[1,2],"s":"-"}`, "1-2-"},
		{"members", `{{.o.user.name}} {{index .o "user" "name"}} {{index .a 1}}`, "o a", `{"o":{"user":{"name":"Ann"}},"a":[1,2]}`, "Ann Ann 2"},
		{"numbers compare as numbers", `{{if lt .n 10}}lt{{end}} {{if eq .n 9}}eq{{end}} {{if gt .i .n}}gt{{end}} {{eq .n 9.0}}`, "n i", `{"n":9,"i":10}`, "lt eq gt true"},
		{"whole numbers compare exactly", `{{eq .i .i1}} {{lt .i .i1}}`, "i i1", `{"i":9007199254740992,"i1":9007199254740993}`, "false true"},
		{"types are never equal", `{{eq .s .n}} {{ne .s .n}} {{eq .s "1" "2"}}`, "s n", `{"s":"1","n":1}`, "false true true"},
		{"text functions", `{{upper .s}} {{.s | lower}} {{trim .s1}} {{quote .s1}} {{replace "b" "--" .s}} {{contains "a" .s}} {{hasPrefix "A" .s}} {{hasSuffix "c" .s}}`,
			"s s1", `{"s":"Abc","s1":" x\n"}`, `ABC abc x " x\n" A--c false true true`},
		{"characters, not bytes", `{{truncate 2 .s}} {{len .s}} {{slice .s 1 3}} {{slice .s 2}}`, "s", `{"s":"äöüß"}`, "äö 4 öü üß"},
		{"array functions", `{{join ", " .a}} {{len .a}} {{slice .a 1}} {{index (split "," .s) 1}}`, "a s", `{"a":["x",1.0,true],"s":"p,q"}`, `x, 1.0, true 3 [1.0,true] q`},
		{"indent", `{{indent 2 .s}}`, "s", `{"s":"a\n\nb"}`, "  a\n\n  b"},
		{"printf", `{{printf "%05d|%6.2f|%-4s|%q|%x|%%" .i .n .s .s .i}}`, "i n s", `{"i":42,"n":3.14159,"s":"ab"}`, `00042|  3.14|ab  |"ab"|2a|%`},
		{"print and println", `{{print .s 1 .s}}{{println .s 2}}`, "s", `{"s":"a"}`, "a1aa 2\n"},
		{"declared in the template", `{{$x := .s}}{{with $y := .o}}{{$x}}{{.k}}{{$y.k}}{{else}}no{{end}}{{$x = "z"}}{{$x}}`, "s o", `{"s":"a","o":{"k":"v"}}`, "avvz"},
		{"break and continue", `{{range .a}}{{if eq . 2}}{{continue}}{{end}}{{if eq . 4}}{{break}}{{end}}{{.}}{{end}}`, "a", `{"a":[1,2,3,4,5]}`, "13"},
		{"white space is trimmed where asked", "a {{- .s -}} b", "s", `{"s":"x"}`, "axb"},
		{"escaped names", `{{.s}}`, "s", `{"\u0073":"x"}`, "x"},
		{"half a surrogate pair", `{{.s}}`, "s", `{"s":"a\ud83db"}`, "a\uFFFDb"},
		{"surrogate pair", `{{.s}}`, "s", `{"s":"\ud83d\ude00"}`, "😀"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tmpl, err := Compile(Spec{User: c.user, Variables: declare(c.declared)})
			if err != nil {
				t.Fatal(err)
			}
			if err := tmpl.Check(json.RawMessage(c.vars)); err != nil {
				t.Fatal("Check:", err)
			}
			got, err := tmpl.Render(json.RawMessage(c.vars))
			if err != nil {
				t.Fatal("Render:", err)
			}
			if diff := cmp.Diff(Messages{{RoleUser, c.want}}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRenderFailures(t *testing.T) {
	t.Parallel()
	huge := `"` + strings.Repeat("x", 1<<20) + `"`
	for _, c := range []struct{ name, user, declared, vars, want string }{
		{"empty message", "{{.s}}", "s", `{"s":" \n"}`, `user: rendered to an empty message`},
		{"missing member", "a\n{{.o.x}}", "o", `{"o":{}}`, `user: line 2: at <.o.x>: map has no entry for key "x"`},
		{"missing item", `{{index .a 3}}`, "a", `{"a":[]}`, `user: index: the array has 0 items, there is no item 3`},
		{"no order", `{{lt .a 3}}`, "a", `{"a":[]}`, `user: lt: an array and a number have no order`},
		{"not a list", `{{range .o.x}}{{end}}`, "o", `{"o":{"x":"secret"}}`, `user: range needs an array or an object, got a string`},
		{"wrong verb", `{{printf "%d" .s}}`, "s", `{"s":"secret"}`, `user: printf: a verb of the format does not fit its argument`},
		{"missing argument", `{{printf "%s %s" .s}}`, "s", `{"s":"x"}`, `user: printf: a verb of the format does not fit its argument`},
		{"address", `{{printf "%p" .o}}`, "o", `{"o":{}}`, `user: printf: the format has a verb that is not available`},
		{"width", `{{printf "%99999d" .n}}`, "n", `{"n":1}`, `user: printf: a width is at most 1000`},
		{"width from an argument", `{{printf "%*d" .n .n}}`, "n", `{"n":1}`, `user: printf: the format has a verb that is not available`},
		{"endless loop", `{{range 1000000000}}{{end}}{{.s}}`, "s", `{"s":"x"}`, `user: the loops of the template run too long for one job`},
		{"nested loops", `{{range .a}}{{range $.a}}{{range $.a}}{{range $.a}}{{end}}{{end}}{{end}}{{end}}`, "a",
			`{"a":[` + strings.Repeat("1,", 999) + `1]}`, `user: the loops of the template run too long for one job`},
		{"doubling", `{{$x := .s}}{{range 64}}{{$x = print $x $x}}{{end}}`, "s", `{"s":"x"}`, `user: print: the functions of the template make too much text for one job`},
		{"replacement bomb", `{{$x := .s}}{{replace "x" $x $x}}`, "s", `{"s":` + huge + `}`, `user: replace: the functions of the template make too much text for one job`},
		{"join bomb", `{{join .s .a}}`, "s a", `{"s":` + huge + `,"a":[` + strings.Repeat("1,", 999) + `1]}`, `user: join: the functions of the template make too much text for one job`},
		{"long output of a loop", `{{range 100}}{{$.s}}{{end}}`, "s", `{"s":` + huge + `}`, `user: the messages of one job are at most 8388608 bytes; these are longer`},
		{"long output of plain values", strings.Repeat(`{{.s}}`, 9), "s", `{"s":` + huge + `}`, `user: the messages of one job are at most 8388608 bytes; these are longer`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			tmpl, err := Compile(Spec{User: c.user, Variables: declare(c.declared)})
			if err != nil {
				t.Fatal(err)
			}
			got, err := tmpl.Render(json.RawMessage(c.vars))
			if err == nil {
				t.Fatalf("rendered %.100q", got)
			}
			if err.Error() != c.want {
				t.Errorf("\n got %s\nwant %s", err, c.want)
			}
			if _, ok := errors.AsType[*Error](err); !ok {
				t.Errorf("error is a %T", err)
			}
		})
	}
}

func TestSystemMessageComesFirstAndMayBeEmpty(t *testing.T) {
	t.Parallel()
	tmpl := compile(t, `{"system":"{{.s}}","user":"u","variables":{"s":{"type":"string"}}}`)
	got, err := tmpl.Render(json.RawMessage(`{"s":"sys"}`))
	if diff := cmp.Diff(Messages{{RoleSystem, "sys"}, {RoleUser, "u"}}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	got, err = tmpl.Render(json.RawMessage(`{"s":""}`))
	if diff := cmp.Diff(Messages{{RoleUser, "u"}}, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	tmpl := compile(t, `{"user":"{{.name}} {{.age}} {{.note}}{{.tags}}{{.extra}}{{.ok}}{{.score}}","variables":{
		"name":{"type":"string"},"age":{"type":"integer"},"note":{"type":"string","default":"-"},"score":{"type":"number","required":false},
		"tags":{"type":"array","required":false},"extra":{"type":"object","required":false},"ok":{"type":"boolean","required":false}}}`)
	for _, c := range []struct{ vars, want string }{
		{`{"name":"A","age":1}`, ""},
		{" {\n\"name\" : \"A\" , \"age\" : -0 , \"tags\":[], \"extra\":{},\"ok\":false,\"score\":1e9,\"note\":null } \r\n", ""},
		{`{"age":1}`, `variables.name: is missing; the template requires it`},
		{``, `variables.age: is missing; the template requires it, and also name`},
		{`{}`, `variables.age: is missing; the template requires it, and also name`},
		{`{"name":null,"age":1}`, `variables.name: expected a string, got null`},
		{`{"name":"A","age":"1"}`, `variables.age: expected an integer, got string`},
		{`{"name":"A","age":1.0}`, `variables.age: expected an integer, got a number with a fraction or an exponent`},
		{`{"name":"A","age":1e2}`, `variables.age: expected an integer, got a number with a fraction or an exponent`},
		{`{"name":"A","age":1,"tags":{}}`, `variables.tags: expected an array, got object`},
		{`{"name":"A","age":1,"extra":[]}`, `variables.extra: expected an object, got array`},
		{`{"name":"A","age":1,"score":true}`, `variables.score: expected a number, got boolean`},
		{`{"nmae":"A","age":1}`, `variables: "nmae" is given, but the template has no such variable (did you mean "name"?)`},
		{`{"name":"A","age":1,"zzz":1}`, `variables: "zzz" is given, but the template has no such variable`},
		{`{"name":"A","name":"B","age":1}`, `variables.name: is given twice`},
		{`{"name":"A","na\u006de":"B","age":1}`, `variables.name: is given twice`},
		{`[1]`, `expected the variables as an object, got array`},
		{`null`, `expected the variables as an object, got null`},
		{`{"name":"A","age":1`, `not valid JSON at byte 19`},
		{`{"name":"A","age":1}}`, `not valid JSON at byte 20`},
		{`{"name":"A","age":01}`, `not valid JSON at byte 19`},
		{`{"name":"A" "age":1}`, `not valid JSON at byte 12`},
		{`{"name":"A,"age":1}`, `not valid JSON at byte 12`},
		{`{"name":"A`, `the JSON ends inside a string`},
		{" ", `the JSON ends too early`},
		{"{\"name\":\"A\n\",\"age\":1}", `a control character is not escaped in the JSON string at byte 10`},
		{"{\"name\":\"\xff\",\"age\":1}", `the variables are not valid UTF-8 at byte 9`},
		{`{"name":"A","age":1,"tags":` + strings.Repeat("[", 600) + strings.Repeat("]", 600) + `}`, `JSON nests deeper than 512 levels at byte 538`},
	} {
		err := tmpl.Check(json.RawMessage(c.vars))
		got := ""
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("Check(%.60s)\n got %s\nwant %s", c.vars, got, c.want)
		}
		if _, renderErr := tmpl.Render(json.RawMessage(c.vars)); (renderErr == nil) != (err == nil) {
			t.Errorf("Check(%.60s) = %v, Render: %v", c.vars, err, renderErr)
		}
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	tmpl := compile(t, benchSpec)
	if n := testing.AllocsPerRun(100, func() { _ = tmpl.Check(benchVars) }); n > 0 {
		t.Errorf("Check allocates %v times", n)
	}
}

func TestCompileNamesTheMistake(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, spec, want string }{
		{"typo", `{"user":"{{.nmae}}","variables":{"name":{"type":"string"}}}`, `user: variable "nmae" is used but not declared (did you mean "name"?)`},
		{"line", `{"user":"a\nb {{.x}}"}`, `user: line 2: variable "x" is used but not declared`},
		{"system", `{"system":"{{.x}}","user":"a"}`, `system: variable "x" is used but not declared`},
		{"unused", `{"user":"a","variables":{"x":{"type":"string"}}}`, `variables.x: is declared but neither system nor user uses it`},
		{"root in a range", `{"user":"{{range .a}}{{$.x}}{{end}}","variables":{"a":{"type":"array"}}}`, `user: variable "x" is used but not declared`},
		{"in an argument", `{"user":"{{join .x (split .y .z)}}","variables":{"x":{"type":"string"},"y":{"type":"string"}}}`, `user: variable "z" is used but not declared (did you mean "x"?)`},
		{"in an else", `{"user":"{{with .x}}{{.any}}{{else}}{{.y}}{{end}}","variables":{"x":{"type":"object"}}}`, `user: variable "y" is used but not declared (did you mean "x"?)`},
		{"member of a string", `{"user":"{{.s.x}}","variables":{"s":{"type":"string"}}}`, `user: variable "s" has the type string, so it has no member "x"`},
		{"range over a string", `{"user":"{{range .s}}{{end}}","variables":{"s":{"type":"string"}}}`, `user: range needs an array or an object, but variable "s" has the type string`},
		{"syntax", `{"user":"a\n{{if}}"}`, `user: line 2: missing value for if`},
		{"unclosed", `{"user":"{{.x"}`, `user: unclosed action`},
		{"call", `{"user":"{{call .x}}","variables":{"x":{"type":"string"}}}`, `user: function "call" is not available; there are `},
		{"html", `{"user":"{{.x | html}}","variables":{"x":{"type":"string"}}}`, `user: function "html" is not available; there are `},
		{"near", `{"user":"{{urlquery 1}}"}`, `user: function "urlquery" is not available`},
		{"unknown function", `{"user":"{{now}}"}`, `user: function "now" not defined; there are and, contains`},
		{"ours", `{"user":"{{asText 1}}"}`, `user: function "asText" not defined`},
		{"too few", `{"user":"{{truncate .x}}","variables":{"x":{"type":"string"}}}`, `user: function "truncate" needs 2 arguments, got 1`},
		{"too many", `{"user":"{{.x | upper 1}}","variables":{"x":{"type":"string"}}}`, `user: function "upper" takes 1 arguments, got 2`},
		{"function as a value", `{"user":"{{print upper}}"}`, `user: function "upper" needs 1 arguments, got 0`},
		{"value as a function", `{"user":"{{.x 1}}","variables":{"x":{"type":"string"}}}`, `user: .x is a value, it takes no arguments`},
		{"define", `{"user":"{{define \"x\"}}{{end}}a{{template \"x\"}}"}`, `user: define and block are not available: a template is one text`},
		{"recursion", `{"user":"{{template \"user\"}}"}`, `user: template is not available: a template is one text`},
		{"recursion by definition", `{"user":"{{define \"user\"}}{{template \"user\"}}{{end}}"}`, `user: template is not available: a template is one text`},
		{"block", `{"user":"{{block \"x\" .}}{{end}}"}`, `user: define and block are not available: a template is one text`},
		{"deep", `{"user":"` + strings.Repeat("{{if 1}}", 70) + strings.Repeat("{{end}}", 70) + `"}`, `user: nests deeper than 64 levels`},
		{"deep parentheses", `{"user":"{{print ` + strings.Repeat("(print ", 70) + "1" + strings.Repeat(")", 70) + `}}"}`, `user: nests deeper than 64 levels`},
		{"no user", `{"system":"a"}`, `user: is empty; it is the message that a job sends`},
		{"long", `{"user":"` + strings.Repeat("x", 300<<10) + `"}`, `user: has 307200 bytes; at most 262144 are allowed`},
		{"name", `{"user":"a","variables":{"a-b":{"type":"string"}}}`, `variables: "a-b" is not a name: use up to 64 ASCII letters, digits and _, not beginning with a digit`},
		{"type", `{"user":"a","variables":{"x":{"type":"strnig"}}}`, `variables.x.type: "strnig" is unknown; it is one of string, number, integer, boolean, array, object (did you mean "string"?)`},
		{"no type", `{"user":"a","variables":{"x":{}}}`, `variables.x.type: is missing; it is one of string, number, integer, boolean, array, object`},
		{"default of another type", `{"user":"{{.x}}","variables":{"x":{"type":"integer","default":1.5}}}`, `variables.x.default: expected an integer, got a number with a fraction or an exponent`},
		{"null default", `{"user":"{{.x}}","variables":{"x":{"type":"string","default":null}}}`, `variables.x.default: expected a string, got null`},
		{"required with default", `{"user":"{{.x}}","variables":{"x":{"type":"string","default":"","required":true}}}`, `variables.x: is required and has a default; a variable with a default need not be given`},
		{"format", `{"user":"a","output":{"format":"xml"}}`, `output.format: "xml" is unknown; it is text or json`},
		{"schema of text", `{"user":"a","output":{"schema":{}}}`, `output.schema: needs "format": "json"`},
		{"schema", `{"user":"a","output":{"format":"json","schema":[]}}`, `output.schema: expected an object, got array`},
		{"max tokens", `{"user":"a","sampling":{"max_tokens":-1}}`, `sampling.max_tokens: is not between 1 and 16777216`},
		{"temperature", `{"user":"a","sampling":{"temperature":3}}`, `sampling.temperature: is not between 0 and 2`},
		{"top p", `{"user":"a","sampling":{"top_p":0}}`, `sampling.top_p: is not above 0 and up to 1`},
		{"stop", `{"user":"a","sampling":{"stop":[""]}}`, `sampling.stop: a stop sequence is 1 to 256 bytes of UTF-8`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := ParseSpec(json.RawMessage(c.spec))
			if err != nil {
				t.Fatal("ParseSpec:", err)
			}
			_, err = Compile(s)
			if err == nil {
				t.Fatal("compiled")
			}
			if !strings.HasPrefix(err.Error(), c.want) {
				t.Errorf("\n got %s\nwant %s", err, c.want)
			}
		})
	}
}

func TestParseSpecIsStrict(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, spec, want string }{
		{"unknown", `{"usr":"a"}`, `usr: unknown field (did you mean "user"?)`},
		{"case", `{"User":"a"}`, `User: unknown field (did you mean "user"?)`},
		{"nested", `{"user":"a","sampling":{"temprature":1}}`, `sampling.temprature: unknown field (did you mean "temperature"?)`},
		{"output", `{"user":"a","output":{"json":1}}`, `output.json: unknown field`},
		{"variable", `{"user":"a","variables":{"x":{"tpye":"string"}}}`, `variables.x.tpye: unknown field (did you mean "type"?)`},
		{"type", `{"user":1}`, `user: expected a string, got number`},
		{"integer", `{"user":"a","sampling":{"max_tokens":"x"}}`, `sampling.max_tokens: expected an integer, got string`},
		{"fraction", `{"user":"a","sampling":{"max_tokens":1.5}}`, `sampling.max_tokens: expected an integer, got number 1.5`},
		{"seed", `{"user":"a","sampling":{"seed":99999999999999999999}}`, `sampling.seed: expected an integer, got number 99999999999999999999`},
		{"not an object", `{"user":"a","variables":[]}`, `variables: expected an object`},
		{"variable not an object", `{"user":"a","variables":{"x":"string"}}`, `variables.x: expected an object`},
		{"array", `[]`, `expected an object`},
		{"twice", `{"user":"a","user":"b"}`, `the object at byte 0 has two members of one name`},
		{"more", `{"user":"a"} x`, `not valid JSON at byte 13`},
		{"empty", ``, `the JSON ends too early`},
		{"large", `{"user":"` + strings.Repeat("x", 1<<20) + `"}`, `a template is at most 1048576 bytes of JSON, this one has 1048587`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, err := ParseSpec(json.RawMessage(c.spec))
			if err == nil {
				t.Fatalf("parsed %+v", s)
			}
			if err.Error() != c.want {
				t.Errorf("\n got %s\nwant %s", err, c.want)
			}
		})
	}
}

func TestSpecFormIsStable(t *testing.T) {
	t.Parallel()
	const spec = `{ "user": "{{.b}}{{.a}}", "variables": {"b": {"type":"array", "default": [ 1, {"x" : 2} ]},
		"a": {"required": false, "type":"string","description":"d"}}, "output": {"schema": { "type": "object" }, "format":"json"},
		"sampling": {"temperature": 0, "seed": 7, "stop":["x"]}, "system":"s" }`
	const want = `{"system":"s","user":"{{.b}}{{.a}}","variables":{"a":{"type":"string","required":false,"description":"d"},` +
		`"b":{"type":"array","default":[1,{"x":2}]}},"output":{"format":"json","schema":{"type":"object"}},` +
		`"sampling":{"temperature":0,"seed":7,"stop":["x"]}}`
	s, err := ParseSpec(json.RawMessage(spec))
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(s)
	if err != nil || string(got) != want {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
	again, err := ParseSpec(got)
	if diff := cmp.Diff(s, again); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestOneTemplateServesManyGoroutines(t *testing.T) {
	t.Parallel()
	tmpl := compile(t, `{"system":"{{range .l}}{{upper .}}{{end}}","user":"{{.s | printf \"%s!\"}}","variables":{"l":{"type":"array"},"s":{"type":"string"}}}`)
	var wg sync.WaitGroup
	for _, word := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			vars := json.RawMessage(`{"l":["` + word + `","` + word + `"],"s":"` + word + `"}`)
			want := Messages{{RoleSystem, strings.ToUpper(word + word)}, {RoleUser, word + "!"}}
			for range 200 {
				got, err := tmpl.Render(vars)
				if diff := cmp.Diff(want, got); diff != "" || err != nil {
					t.Error(diff, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestStableIsWhatAllJobsShare(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		system, user    string
		messages, bytes int
	}{
		{"Be brief.", "Translate: {{.text}}", 1, len("Translate: ")},
		{"Be brief.", "{{.text}}", 1, 0},
		{"Be brief.", "Hello.", 2, 0},
		{"", "Say {{.text}} now", 0, len("Say ")},
		{"As {{.text}} says", "Hello {{.text}}", 0, len("As ")},
		{"", "Say {{if .text}}it{{end}}", 0, len("Say ")},
	} {
		s := Spec{System: tt.system, User: tt.user, Variables: map[string]Variable{}}
		if strings.Contains(tt.system+tt.user, ".text") {
			s.Variables["text"] = Variable{Type: TypeString}
		}
		c, err := Compile(s)
		if err != nil {
			t.Fatalf("%q %q: %v", tt.system, tt.user, err)
		}
		if messages, bytes := c.Stable(); messages != tt.messages || bytes != tt.bytes {
			t.Errorf("%q %q: %d messages and %d bytes, want %d and %d", tt.system, tt.user, messages, bytes, tt.messages, tt.bytes)
		}
	}
}

func TestSameRequests(t *testing.T) {
	t.Parallel()
	base := compile(t, `{"system":"s","user":"{{.v}}","variables":{"v":{"type":"string","default":"a"}},"output":{"format":"json","schema":{"type":"object","title":"t"}}}`)
	for spec, want := range map[string]bool{
		`{"system":"s","user":"{{.v}}","variables":{"v":{"type":"string","default":"a","description":"d","schema":{"maxLength":9}}},"output":{"format":"json","schema":{"title":"t","type":"object"},"repairs":3}}`: true,
		`{"system":"s","user":"{{.v}}","variables":{"v":{"type":"string","default":"b"}},"output":{"format":"json","schema":{"type":"object","title":"t"}}}`:                                                        false,
		`{"system":"s","user":"{{.v}}","variables":{"v":{"type":"string","default":"a"}},"output":{"format":"json"}}`:                                                                                               false,
		`{"system":"s","user":"{{.v}}","variables":{"v":{"type":"string","default":"a"}},"output":{"format":"json","schema":{"type":"object","title":"t"}},"sampling":{"seed":1}}`:                                  false,
		`{"system":"s","user":"{{.v}} ","variables":{"v":{"type":"string","default":"a"}},"output":{"format":"json","schema":{"type":"object","title":"t"}}}`:                                                       false,
		`{"system":"s","user":"{{.v}}","examples":[{"user":"u","assistant":"{}"}],"variables":{"v":{"type":"string","default":"a"}},"output":{"format":"json","schema":{"type":"object","title":"t"}}}`:             false,
	} {
		if got := SameRequests(base, compile(t, spec)); got != want {
			t.Errorf("%s: %t", spec, got)
		}
	}
}
