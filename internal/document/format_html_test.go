package document

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// Each testdata/html/NAME.html has the text that it gives beside it, read by a person: NAME.golden.
func TestHTMLGolden(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("testdata/html/*.html")
	if err != nil || len(pages) == 0 {
		t.Fatal("no pages", err)
	}
	for _, page := range pages {
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Extract(page, "", data)
		if err != nil {
			t.Errorf("%s: %v", page, err)
			continue
		}
		text := "title: " + got.Title + "\n\n" + got.Text + "\n"
		golden := strings.TrimSuffix(page, ".html") + ".golden"
		if *update {
			if err := os.WriteFile(golden, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if text != string(want) {
			t.Errorf("%s:\n got %s\nwant %s", page, text, want)
		}
	}
}

func TestHTMLFormatting(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a <b>b <i>c</i></b> <a href=x>d</a> <u>e</u> <tt>f</tt>": "a **b *c*** d e `f`",
		"<b>open<p>next":                     "**open**\n\nnext",
		"<b>a<i>b</b>c</i>":                  "**a*b***c",
		"<b>a<br>b</b>":                      "**a**\n**b**",
		"x <i aria-hidden=true>i</i> y":      "x y",
		"x <a hidden>i</a> y":                "x y",
		"x<!-- c -->y":                       "xy",
		"<script>if (a<b) {'<b>'}</script>x": "x",
		"<a href=x><div>block</div></a>z":    "block\n\nz",
		strings.Repeat("<b><i>", 20) + "x":   "***x***",
	} {
		got, err := Extract("a.html", "", []byte(in+"<hr>"+prose))
		body, _, _ := strings.Cut(got.Text, "\n\n* * *")
		if err != nil || body != want {
			t.Errorf("%s: got %q, %v, want %q", in, body, err, want)
		}
	}
}

func TestHeadingKeepsItsHash(t *testing.T) {
	t.Parallel()
	for heading, want := range map[string]string{
		"Learn C#": "# Learn C#", "#": "# #", "F# <em>in</em> C<em>#</em>": "# F# *in* C*#*", "<code>#</code>": "# `#`", "A < B >": "# A < B >",
	} {
		got, err := Extract("a.html", "", []byte("<h1>"+heading+"</h1><p>"+prose))
		if first, _, _ := strings.Cut(got.Text, "\n"); err != nil || first != want {
			t.Errorf("%s: got %q, %v", heading, first, err)
		}
	}
}

// What comes from outside may be made to cost much: each of these is to be done or refused at once, in little memory.
func TestHostileHTMLIsBounded(t *testing.T) {
	t.Parallel()
	const n = 5_000
	for name, page := range map[string]string{
		"spans of a cell":     `<table><tr><td colspan=1000000000 rowspan=1000000000>` + prose + `</table>`,
		"many columns":        "<table><tr>" + strings.Repeat("<td>x", n) + strings.Repeat("<tr><td>y", 50) + "</table>" + prose,
		"a wide cell":         "<table><tr><td>" + strings.Repeat("x", n) + strings.Repeat("<tr><td>y", n) + "</table>" + prose,
		"open formatting":     strings.Repeat("<p><b><i><u>x", n/20) + prose,
		"distinct formatting": strings.Repeat("<font color=1><b id=2><a href=3>", 100) + strings.Repeat("<p>x", n) + prose,
		"nested tables":       strings.Repeat("<table><tr><td>", 60) + prose,
		"nested lists":        strings.Repeat("<ul><li>", 90) + prose,
		"nested quotes":       strings.Repeat("<blockquote>", 180) + prose + strings.Repeat("<p>"+prose, n/20),
		"many siblings":       strings.Repeat("<p>x</p>", n) + prose,
		"many headers":        "<main>" + strings.Repeat("<header>x</header>", n) + prose,
		"many empty elements": strings.Repeat("<span></span>", n) + prose,
		"many breaks":         strings.Repeat("<br>", n) + prose,
		"many spaces":         strings.Repeat("&nbsp; \n", n) + prose,
		"a data image":        `<img src="data:image/png;base64,` + strings.Repeat("A", n) + `" alt="an image">` + prose,
		"attributes":          "<p " + strings.Repeat("a=b ", n) + ">" + prose,
		"comments":            strings.Repeat("<!-- ", n) + "-->" + prose,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Extract("a.html", "", []byte(page))
			if err != nil {
				if e, ok := err.(*Error); !ok || e.Code != CodeTooComplex {
					t.Fatal(err)
				}
				return
			}
			if !strings.Contains(got.Text, "quick brown fox") {
				t.Error("the text is lost")
			}
			if len(got.Text) > 20*len(page)+1000 {
				t.Errorf("%d bytes became %d", len(page), len(got.Text))
			}
		})
	}
}

func BenchmarkExtractHTML(b *testing.B) {
	page := []byte("<html><title>T</title><body><nav><a href=/>Home</a></nav><main>" +
		strings.Repeat("<h2>Head</h2><p>"+prose+" <a href='https://example.com/x?y=z'>A link</a> and <b>bold</b>.</p><ul><li>a<li>b</ul>", 200) + "</main>")
	b.SetBytes(int64(len(page)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Extract("", "", page); err != nil {
			b.Fatal(err)
		}
	}
}
