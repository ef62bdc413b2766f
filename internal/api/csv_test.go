package api

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// readRows renders what rows yields: the line, its cells or what is wrong with it.
func readRows(src io.Reader, longest int) (out []string) {
	for l, err := range rows(src, longest) {
		p, isProblem := errors.AsType[*problem](err)
		switch {
		case isProblem:
			out = append(out, fmt.Sprintf("problem %d: %s", p.status, p.detail))
		case err != nil:
			out = append(out, "broken: "+err.Error())
		case l.Err != nil:
			out = append(out, fmt.Sprintf("%d: %v", l.Number, l.Err))
		default:
			out = append(out, fmt.Sprintf("%d: %q under %q", l.Number, l.Row.Cells, l.Row.Head))
		}
	}
	return out
}

func TestRowsOfCSV(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200<<10)
	for name, c := range map[string]struct {
		in   string
		want []string
	}{
		"plain":                 {"a,b\n1,2\n3,4\n", []string{`2: ["1" "2"] under ["a" "b"]`, `3: ["3" "4"] under ["a" "b"]`}},
		"RFC 4180":              {"a,b\r\n\"x, \"\"y\"\"\",\"two\r\nlines\"\r\n,\r\n", []string{`2: ["x, \"y\"" "two\nlines"] under ["a" "b"]`, `4: ["" ""] under ["a" "b"]`}},
		"byte order mark":       {"\xef\xbb\xbfa\n1", []string{`2: ["1"] under ["a"]`}},
		"blank lines":           {"a\n\n1\n\n\n2\n", []string{`3: ["1"] under ["a"]`, `6: ["2"] under ["a"]`}},
		"nothing":               {"", nil},
		"a head":                {"a,b\n", nil},
		"too few, too many":     {"a,b\n1\n1,2,3\n4,5\n", []string{"2: has 1 cells, and the first line names 2 columns", "3: has 3 cells, and the first line names 2 columns", `4: ["4" "5"] under ["a" "b"]`}},
		"a quote in a cell":     {"a,b\nx\"secret,2\n4,5\n", []string{"2: line 2, byte 2: a quote stands in a cell without quotes around it: put the cell in quotes and double those within", `3: ["4" "5"] under ["a" "b"]`}},
		"a quote within quotes": {"a,b\n\"se\"cret\",2\n4,5\n", []string{"2: line 2, byte 4: a quoted cell doesn't end at a comma or the line's end: double the quotes within it, and close it", `3: ["4" "5"] under ["a" "b"]`}},
		"a quote not closed":    {"a,b\n1,2\n\"secret,2\n4,5\n", []string{`2: ["1" "2"] under ["a" "b"]`, "3: line 4, byte 5: a quoted cell doesn't end at a comma or the line's end: double the quotes within it, and close it"}},
		"a bad head":            {"a,b\"\n1,2\n", []string{"problem 400: the table's first line, which names its columns: line 1, byte 4: a quote stands in a cell without quotes around it: put the cell in quotes and double those within"}},
		"a long row":            {"a\nok\n" + long + long + "\nok\n", []string{`2: ["ok"] under ["a"]`, "problem 400: the row behind that of line 2 is longer than 204800 bytes: is a quote not closed?"}},
		"a long head":           {long + long + "\n", []string{"problem 400: the table's first line, which names its columns, is longer than 204800 bytes"}},
		"rows as long as may be": {"a\n" + long + "\n" + long + "\n" + long + "\n", []string{
			`2: ["` + long + `"] under ["a"]`, `3: ["` + long + `"] under ["a"]`, `4: ["` + long + `"] under ["a"]`}},
	} {
		for kind, src := range map[string]io.Reader{"": strings.NewReader(c.in), ", byte by byte": iotest.OneByteReader(strings.NewReader(c.in))} {
			if got := readRows(src, 200<<10); strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("%s%s:\n%.3000s; want\n%.3000s", name, kind, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		}
	}
	broken := io.MultiReader(strings.NewReader("a\n1\n2"), iotest.ErrReader(errors.New("cut off")))
	if got := readRows(broken, 100); len(got) != 2 || got[1] != "broken: cut off" {
		t.Errorf("a stream that breaks off: %q", got)
	}
}

// A quote that nobody closes makes one row of all that follows: it must not be read into memory.
func TestTableTakesConstantMemory(t *testing.T) {
	t.Parallel()
	read := &counted{src: io.MultiReader(strings.NewReader("a\n1\n\""), io.LimitReader(repeating([]byte("x")), 1<<30))}
	got := readRows(read, 1<<20)
	if len(got) != 2 || !strings.HasSuffix(got[1], "is a quote not closed?") || read.n > 2<<20 {
		t.Errorf("%d bytes were read: %q", read.n, got)
	}
	n := 0
	for l, err := range rows(io.MultiReader(strings.NewReader("a\n"), io.LimitReader(repeating([]byte("some text\n")), 50<<20)), 1<<10) {
		if err != nil || l.Err != nil {
			t.Fatal(err, l.Err)
		}
		n++
	}
	if n != 50<<20/10 {
		t.Errorf("%d rows", n)
	}
}

type counted struct {
	src io.Reader
	n   int
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.src.Read(p)
	c.n += n
	return n, err
}

func FuzzRows(f *testing.F) {
	for _, in := range []string{"a,b\n1,2\n", "\xef\xbb\xbfa\n\"x\"\"y\"\r\n", "a\n\"", "a,a\n,\n", "\n\n\na\n1", "a\r\r\n1\r\n"} {
		f.Add(in)
	}
	f.Fuzz(func(t *testing.T, in string) {
		last, head := 0, []string(nil)
		for l, err := range rows(strings.NewReader(in), 1000) {
			if err != nil {
				continue
			}
			if l.Number < last || l.Number < 1 {
				t.Fatalf("line %d after %d", l.Number, last)
			}
			last = l.Number
			if l.Err != nil {
				continue
			}
			if head == nil {
				head = l.Row.Head
			}
			if len(l.Row.Cells) != len(l.Row.Head) || &head[0] != &l.Row.Head[0] {
				t.Fatalf("%q under %q", l.Row.Cells, l.Row.Head)
			}
		}
	})
}
