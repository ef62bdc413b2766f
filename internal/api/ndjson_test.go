package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// collect reads everything; a line is its number and text, or its number and "!" when it was too long.
func collect(src io.Reader, longest int) (got []string, err error) {
	l := lineReader{src: src, max: longest}
	for {
		line, err := l.next()
		switch {
		case errors.Is(err, errLongLine):
			got = append(got, fmt.Sprintf("%d!", l.number))
		case errors.Is(err, io.EOF):
			return got, nil
		case err != nil:
			return got, err
		default:
			got = append(got, fmt.Sprintf("%d:%s", l.number, line))
		}
	}
}

// split is what lineReader promises, on a whole text.
func split(data []byte, longest int) (want []string) {
	text := bytes.Split(data, []byte("\n"))
	if len(text[len(text)-1]) == 0 {
		text = text[:len(text)-1]
	}
	for i, line := range text {
		line = bytes.TrimSuffix(line, []byte("\r"))
		if i == 0 {
			line = bytes.TrimPrefix(line, []byte("\xef\xbb\xbf"))
		}
		switch {
		case len(line) > longest:
			want = append(want, fmt.Sprintf("%d!", i+1))
		case strings.Trim(string(line), " \t\r") != "":
			want = append(want, fmt.Sprintf("%d:%s", i+1, line))
		}
	}
	return want
}

func TestLineReader(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   string
		want []string
	}{
		"empty":             {"", nil},
		"one":               {"a\n", []string{"1:a"}},
		"no newline at end": {"a\nb", []string{"1:a", "2:b"}},
		"CRLF":              {"a\r\nb\r\n", []string{"1:a", "2:b"}},
		"CR kept inside":    {"a\rb\n", []string{"1:a\rb"}},
		"blank lines":       {"\n \t\r\n\na\n\n", []string{"4:a"}},
		"byte order mark":   {"\xef\xbb\xbfa\n\xef\xbb\xbfb", []string{"1:a", "2:\xef\xbb\xbfb"}},
		"longest":           {strings.Repeat("x", 8) + "\r\n", []string{"1:xxxxxxxx"}},
		"longest, mark":     {"\xef\xbb\xbf" + strings.Repeat("x", 8) + "\r", []string{"1:xxxxxxxx"}},
		"one too long":      {"a\n" + strings.Repeat("x", 9) + "\nb\n", []string{"1:a", "2!", "3:b"}},
		"far too long":      {strings.Repeat("x", 300_000) + "\nb\n", []string{"1!", "2:b"}},
		"last too long":     {"a\n" + strings.Repeat("x", 300_000), []string{"1:a", "2!"}},
		"two too long":      {strings.Repeat("x", 99) + "\n" + strings.Repeat("y", 99) + "\n", []string{"1!", "2!"}},
		"long blank":        {strings.Repeat(" ", 99) + "\nb", []string{"1!", "2:b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for how, wrap := range map[string]func(io.Reader) io.Reader{
				"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader,
				"halves": iotest.HalfReader, "error with the data": iotest.DataErrReader,
			} {
				got, err := collect(wrap(strings.NewReader(tc.in)), 8)
				if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
					t.Errorf("%s: %v\n%s", how, err, diff)
				}
			}
		})
	}
}

func TestBrokenStreamYieldsNoHalfLine(t *testing.T) {
	t.Parallel()
	boom := errors.New("boom")
	for _, in := range []string{"a\nhalf", "a\n" + strings.Repeat("x", 300_000)} {
		got, err := collect(io.MultiReader(strings.NewReader(in), iotest.ErrReader(boom)), 8)
		if !errors.Is(err, boom) || !slices.Equal(got, []string{"1:a"}) {
			t.Errorf("%v, %v", got, err)
		}
	}
	if _, err := collect(emptyReader{}, 8); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader that brings nothing: %v", err)
	}
}

type emptyReader struct{}

func (emptyReader) Read([]byte) (int, error) { return 0, nil }

func TestLinesReportsWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	var got []string
	for l, err := range lines(strings.NewReader("{}\n\n\xffx\n"+strings.Repeat("y", 20)+"\n{}"), 10, 100) {
		if err != nil {
			t.Fatal(err)
		}
		if l.Err != nil {
			if l.Raw != nil {
				t.Errorf("line %d has both", l.Number)
			}
			got = append(got, fmt.Sprintf("%d %s", l.Number, l.Err))
			continue
		}
		got = append(got, fmt.Sprintf("%d %s", l.Number, l.Raw))
	}
	want := []string{"101 {}", "103 is not valid UTF-8 from byte 1 on", "104 is longer than 10 bytes", "105 {}"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestLineReaderHoldsOneLine(t *testing.T) {
	t.Parallel()
	line := []byte(strings.Repeat("x", 499) + "\n")
	l := lineReader{src: io.LimitReader(repeating(line), 32<<20), max: 32 << 20}
	n := 0
	for ; ; n++ {
		if _, err := l.next(); err != nil {
			break
		}
	}
	if len(l.buf) != firstBuf || n != 32<<20/500+1 {
		t.Errorf("%d lines with a buffer of %d bytes", n, len(l.buf))
	}
}

// repeating brings the same bytes for ever, in large reads.
func repeating(line []byte) io.Reader {
	chunk := bytes.Repeat(line, 1000)
	return &repeatReader{chunk: chunk}
}

type repeatReader struct {
	chunk []byte
	pos   int
}

func (r *repeatReader) Read(p []byte) (int, error) {
	n := copy(p, r.chunk[r.pos:])
	r.pos = (r.pos + n) % len(r.chunk)
	return n, nil
}

func FuzzLineReader(f *testing.F) {
	f.Add([]byte("a\nb\r\n\n{\"x\":1}"), 4, 3)
	f.Add([]byte("\xef\xbb\xbflong line here\nx"), 3, 1)
	f.Add(bytes.Repeat([]byte("0123456789"), 8000), 79_999, 70_000)
	f.Fuzz(func(t *testing.T, data []byte, longest, step int) {
		longest, step = max(longest, 0)&0xfffff, max(step, 1)
		got, err := collect(&stepReader{data, step}, longest)
		if err != nil {
			t.Fatal(err)
		}
		if want := split(data, longest); !slices.Equal(want, got) {
			t.Error(cmp.Diff(want, got))
		}
	})
}

// stepReader brings at most step bytes a read.
type stepReader struct {
	data []byte
	step int
}

func (r *stepReader) Read(p []byte) (int, error) {
	if len(r.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.data[:min(r.step, len(r.data))])
	r.data = r.data[n:]
	return n, nil
}

// BenchmarkLines is the whole of the API's own work on a line: cutting and checking UTF-8.
func BenchmarkLines(b *testing.B) {
	for _, size := range []int{100, 500, 10_000} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			line := []byte(`{"custom_id":"` + strings.Repeat("x", size-18) + "\"}\r\n")
			src := repeating(line)
			b.SetBytes(int64(len(line)))
			b.ReportAllocs()
			n := 0
			for _, err := range lines(io.LimitReader(src, int64(b.N)*int64(len(line))), 32<<20, 0) {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n != b.N {
				b.Fatalf("%d lines of %d", n, b.N)
			}
		})
	}
}
