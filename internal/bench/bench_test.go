package bench

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		in   []float64
		want float64
	}{{nil, 0}, {[]float64{7}, 7}, {[]float64{9, 1, 5}, 5}, {[]float64{4, 1, 3, 2}, 2.5}} {
		before := slices.Clone(c.in)
		if got := median(c.in); got != c.want || !slices.Equal(c.in, before) {
			t.Errorf("median(%v) = %v, want %v; then %v", before, got, c.want, c.in)
		}
	}
}

func TestVerdict(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line line
		want string
	}{
		{line{name: "a", ours: []float64{300, 100, 9999}, ceiling: []float64{1000, 1000, 1}, target: 0.3}, "a 300 1000 0.30 >= 0.30 ok"},
		{line{name: "b", ours: []float64{299}, ceiling: []float64{1000}, target: 0.3}, "b 299 1000 0.30 >= 0.30 short"},
		{line{name: "c", ours: []float64{63.94}, ceiling: []float64{64}, target: 1, atMost: true}, "c 63.9 64.0 1.00 <= 1.00 ok"},
		{line{name: "d", ours: []float64{65}, ceiling: []float64{64}, target: 1, atMost: true}, "d 65.0 64.0 1.02 <= 1.00 short"},
		{line{name: "e", ours: []float64{152}}, "e 152 - - - -"},
		{line{name: "f", target: 0.3}, "f 0.0 - - >= 0.30 short"},
	} {
		if got := strings.Join(c.line.cells(), " "); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestColumnsLineUp(t *testing.T) {
	t.Parallel()
	l := line{name: "P1 jobs/s", ours: []float64{12345}, ceiling: []float64{34567}, target: 0.3}
	if h, r := strings.Index(header(), "verdict"), strings.Index(l.String(), "ok"); h != r {
		t.Errorf("the verdict is in columns %d and %d:\n%s\n%s", h, r, header(), l)
	}
}

func example() *report {
	ms := time.Millisecond
	l := line{name: "P1 jobs/s | HTTP", target: 0.5, note: "A note."}
	l.add(run{jobs: 1000, accepted: ms, planned: 20 * ms, done: 100 * ms, cpu: usage{"api": 2 * ms, "worker": 40 * ms}, memory: memory{"api": 20, "worker": 80.5}}, 15000)
	l.add(run{jobs: 1000, accepted: ms, planned: 20 * ms, done: 200 * ms, cpu: usage{"api": 4 * ms, "worker": 80 * ms}, memory: memory{"api": 20, "worker": 90}}, 17000)
	return &report{settings: &settings{suite: &batches, rounds: 2, quick: true}, date: time.Date(2026, 11, 21, 9, 5, 0, 0, time.UTC), took: 75 * time.Second,
		machine: machine{cpu: "Abacus", cores: 2, memory: "4 GiB", kernel: "Linux 6"}, facts: []fact{{"Postgres", "15"}},
		lines: []line{l, {name: "memory", ours: []float64{12}, note: "Another."}}}
}

func TestMarkdown(t *testing.T) {
	t.Parallel()
	got := example().markdown()
	for _, want := range []string{
		"- Date: 2026-11-21 09:05 UTC\n- Machine: Abacus, 2 cores, 4 GiB, Linux 6\n",
		"- Postgres: 15\n- Run: 2 rounds, quick sizes, 1m15s\n",
		"| name | ours | ceiling | ratio | target | verdict |\n|---|---:|---:|---:|---:|---:|\n",
		`| P1 jobs/s \| HTTP | 7500 | 16000 | 0.47 | >= 0.50 | short |` + "\n",
		"| memory | 12.0 | - | - | - | - |\n",
		"- **memory.** Another.\n",
		"| 10000, 5000 | 15000, 17000 | 100ms (accepted after 1ms, planned after 20ms); 200ms ",
		"| CPU, µs a job or line | api | worker | gateway | postgres | redis | provider | bench |\n",
		"| 3.0 | 60.0 | - | - | - | - | - |\n",
		"| peak resident memory, MiB | api | worker | gateway |\n", "| 20.0 | 85.2 | - |\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing: %s\nin:\n%s", want, got)
		}
	}
}

func TestWriteReplacesTheDocument(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	r := example()
	for range 2 {
		if err := r.write(root); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(root, "docs", "benchmarks.md")); err != nil || string(b) != r.markdown() {
		t.Errorf("%v: %s", err, b)
	}
}

func TestPartialRunKeepsTheDocument(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]bool{"": true, "-rounds 5": true, "-quick": false, "-only P1": false, "-quick -write": true, "-only p1,L200 -write": true, "-write=false": false} {
		s, err := parse(strings.Fields(args), io.Discard)
		if err != nil || s.write != want {
			t.Errorf("%q: %+v, %v; want write %v", args, s, err, want)
		}
	}
	if s, err := parse([]string{"-suite", "gateway", "-only", "p11"}, io.Discard); err != nil || s.suite.document != "benchmarks-gateway.md" || !s.wants("P11") || s.wants("P12") {
		t.Errorf("the gateway's suite: %+v, %v", s, err)
	}
	for _, args := range [][]string{{"-suite", "gateway", "-only", "P1"}, {"-suite", "none"}} {
		if _, err := parse(args, io.Discard); err == nil {
			t.Errorf("%q is taken", args)
		}
	}
	if _, err := parse([]string{"-only", "P1,P99"}, io.Discard); err == nil || !strings.Contains(err.Error(), "P99") {
		t.Errorf("an unknown line: %v", err)
	}
}

func TestSubmissionsAreWhatTheySay(t *testing.T) {
	t.Parallel()
	const n = 3000
	for name, src := range map[string]*source{"products": products(n, "x"), "documents": documents(n, "x")} {
		b, err := io.ReadAll(src)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for line := range bytes.Lines(b) {
			var job struct {
				CustomID  string `json:"custom_id"`
				Variables struct{ Name string }
			}
			if err := json.Unmarshal(line, &job); err != nil || job.Variables.Name == "" {
				t.Fatalf("%s: %v in %s", name, err, line)
			}
			if name == "documents" && len(line) != lineBytes {
				t.Fatalf("a document's line has %d bytes, want %d", len(line), lineBytes)
			}
			seen[job.CustomID] = true
		}
		if len(seen) != n {
			t.Errorf("%s: %d ids, want %d", name, len(seen), n)
		}
	}
}

func TestLogReaderFindsAddresses(t *testing.T) {
	t.Parallel()
	l := newLogReader()
	ready := l.seen("api ready")
	for _, part := range []string{`{"level":"INFO","msg":"api re`, `ady","addr":"127.0.0.1:4242"}` + "\n" + `{"level":"WARN","msg":"uh"}` + "\n", `{"level":"INFO","msg":"api ready","addr":"again"}` + "\n"} {
		if _, err := io.WriteString(l, part); err != nil {
			t.Fatal(err)
		}
	}
	<-ready
	if l.addr("api ready") != "127.0.0.1:4242" || !strings.Contains(l.last(), "uh") {
		t.Errorf("addr %q, last %q", l.addr("api ready"), l.last())
	}
}

func TestProcFiguresOfThisProcess(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no /proc here")
	}
	s, ok := readStat(os.Getpid())
	if !ok || s.parent != os.Getppid() || s.name == "" {
		t.Errorf("stat %+v, %v; the parent is %d", s, ok, os.Getppid())
	}
	if rss := peakRSS(os.Getpid()); rss < 1 || rss > 10_000 {
		t.Errorf("peak RSS %v MiB", rss)
	}
	if m := readMachine(); m.cores < 1 || m.memory == "" || m.kernel == "" {
		t.Errorf("%+v", m)
	}
}
