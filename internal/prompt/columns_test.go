package prompt

import "testing"

const tableTemplate = `{"user":"{{.s}}{{.o}}{{.n}}{{.i}}{{.b}}{{.a}}{{.m}}","variables":{"s":{"type":"string"},"o":{"type":"string","default":"d"},"n":{"type":"number","required":false},
	"i":{"type":"integer","required":false},"b":{"type":"boolean","required":false},"a":{"type":"array","required":false},"m":{"type":"object","required":false}}}`

func TestRowsOfATable(t *testing.T) {
	t.Parallel()
	tmpl := compile(t, tableTemplate)
	c, err := tmpl.Columns([]string{"id", "s", "o", "n", "i", "b", "a", "m"})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		cells []string
		want  string // the variables, or the error
		id    string
	}{
		{[]string{"p1", `say "hi"` + "\n", "x", "1.50", "7", "TRUE", `[1, "a"]`, `{"k": null}`}, `{"s":"say \"hi\"\n","o":"x","n":1.50,"i":7,"b":true,"a":[1, "a"],"m":{"k": null}}`, "p1"},
		{[]string{"", "", "", "", "", "", "", ""}, `{"s":""}`, ""},
		{[]string{"", "null", "null", "-1e3", "0", "False", "", ""}, `{"s":"null","o":"null","n":-1e3,"i":0,"b":false}`, ""},
		{[]string{"", "x", "", "1,5", "", "", "", ""}, `column 4, "n": expected a number, as 1234.5`, ""},
		{[]string{"", "x", "", "secret", "", "", "", ""}, `column 4, "n": expected a number, as 1234.5`, ""},
		{[]string{"", "x", "", `"1"`, "", "", "", ""}, `column 4, "n": expected a number, got string`, ""},
		{[]string{"", "x", "", "", "1.0", "", "", ""}, `column 5, "i": expected an integer, got a number with a fraction or an exponent`, ""},
		{[]string{"", "x", "", "", "", "1", "", ""}, `column 6, "b": expected true or false`, ""},
		{[]string{"", "x", "", "", "", "", "a,b", ""}, `column 7, "a": expected an array as JSON: not valid JSON at byte 0`, ""},
		{[]string{"", "x", "", "", "", "", "", "[]"}, `column 8, "m": expected an object, got array`, ""},
		{[]string{"", "\xff", "", "", "", "", "", ""}, `column 2, "s": is not valid UTF-8`, ""},
	} {
		vars, id, err := c.Row(tt.cells)
		got := string(vars)
		if err != nil {
			got = err.Error()
		} else if cerr := tmpl.Check(vars); cerr != nil {
			t.Errorf("%q: made %s, which is refused: %v", tt.cells, vars, cerr)
		}
		if got != tt.want || (id == nil) != (tt.id == "") || id != nil && *id != tt.id {
			t.Errorf("%q: %s; want %s", tt.cells, got, tt.want)
		}
	}
}

func TestHeadOfATable(t *testing.T) {
	t.Parallel()
	tmpl := compile(t, tableTemplate)
	ids := compile(t, `{"user":"{{.id}}{{.other}}","variables":{"id":{"type":"string"},"other":{"type":"string"}}}`)
	for _, tt := range []struct {
		of   *Template
		head []string
		want string
	}{
		{tmpl, []string{"s", "custom_id"}, ``},
		{tmpl, []string{"s", "s"}, `column 2, "s": comes twice, or both custom_id and id are there`},
		{tmpl, []string{"s", "id", "custom_id"}, `column 3, "custom_id": comes twice, or both custom_id and id are there`},
		{tmpl, []string{"s", ""}, `column 2 has no name; the first line names the template's variables`},
		{tmpl, []string{"s", "custom-id"}, `column 2, "custom-id": the template has no such variable (did you mean "custom_id"?)`},
		{tmpl, []string{"o"}, `the head names no column for s`},
		{ids, []string{"id", "custom_id", "other"}, ``},
		{ids, []string{"custom_id"}, `the head names no column for id, and also other`},
	} {
		got := ""
		if _, err := tt.of.Columns(tt.head); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("%q: %s; want %s", tt.head, got, tt.want)
		}
	}
}
