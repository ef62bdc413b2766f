package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// report is what a whole run found out.
type report struct {
	*settings
	date    time.Time
	took    time.Duration
	machine machine
	facts   []fact
	lines   []line
}

// add notes a round of a batch.
func (l *line) add(r run, ceiling float64) {
	l.ours, l.ceiling = append(l.ours, r.rate()), append(l.ceiling, ceiling)
	l.phases, l.cpu, l.memory = append(l.phases, r.String()), append(l.cpu, r.perJob()), append(l.memory, r.memory)
}

// read adds a round of anything else. The usage may be nil.
func (l *line) read(ours, ceiling float64, phase string, u usage) {
	l.ours, l.ceiling = append(l.ours, ours), append(l.ceiling, ceiling)
	if phase != "" {
		l.phases = append(l.phases, phase)
	}
	if u != nil {
		l.cpu = append(l.cpu, u)
	}
}

// perJob is the CPU time that each process took for a job.
func (r run) perJob() usage { return r.cpu.per(r.jobs) }

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// cpuTable has a row for each line that was sampled: the median over its rounds, in microseconds a job.
func (r *report) cpuTable() [][]string {
	return r.byProcess("CPU, µs "+r.suite.per, r.suite.parties, func(l line) (out []map[string]float64) {
		for _, u := range l.cpu {
			m := map[string]float64{}
			for name, t := range u {
				m[name] = float64(t) / float64(time.Microsecond)
			}
			out = append(out, m)
		}
		return out
	})
}

// memoryTable has a row for each line whose processes were looked at: the median over its rounds, in MiB.
func (r *report) memoryTable() [][]string {
	return r.byProcess("peak resident memory, MiB", []string{"api", "worker", "gateway"}, func(l line) (out []map[string]float64) {
		for _, m := range l.memory {
			out = append(out, m)
		}
		return out
	})
}

func (r *report) byProcess(title string, processes []string, of func(line) []map[string]float64) [][]string {
	rows := [][]string{append([]string{title}, processes...)}
	for _, l := range r.lines {
		rounds := of(l)
		if len(rounds) == 0 {
			continue
		}
		row := []string{l.name}
		for _, p := range processes {
			var v []float64
			for _, m := range rounds {
				if f, ok := m[p]; ok {
					v = append(v, f)
				}
			}
			cell := "-"
			if len(v) > 0 {
				cell = fmt.Sprintf("%.1f", median(v))
			}
			row = append(row, cell)
		}
		rows = append(rows, row)
	}
	return rows
}

// tables are those by process, as text.
func (r *report) tables() string {
	var b strings.Builder
	rows := r.cpuTable()
	if mem := r.memoryTable(); len(mem) > 1 {
		rows = append(rows, mem...)
	}
	for _, row := range rows {
		fmt.Fprintf(&b, "%-52s", row[0])
		for _, c := range row[1:] {
			fmt.Fprintf(&b, " %9s", c)
		}
		b.WriteByte('\n')
	}
	return strings.TrimRight(b.String(), "\n")
}

// write replaces the suite's document below root.
func (r *report) write(root string) error {
	path := filepath.Join(root, "docs", r.suite.document)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(r.markdown()), 0o644)
}

const preface = `# Benchmarks

Written by ` + "`make bench`" + `; don't edit it. Each figure stands beside a ceiling that was measured in turn with it, on
the same machine with the same services: what is left when all that Batchwright does for a job is taken away. The ratio
of the medians is the result. Absolute figures are for orientation: they change with the machine and with what else runs
on it. A ratio below its target is "short"; nothing fails by it.

`

func (r *report) markdown() string {
	var b strings.Builder
	b.WriteString(r.suite.preface)
	about := append([]fact{{"Date", r.date.Format("2006-01-02 15:04 UTC")}}, r.machine.facts()...)
	about = append(about, r.facts...)
	sizes := "full"
	if r.quick {
		sizes = "quick"
	}
	about = append(about, fact{"Run", fmt.Sprintf("%d rounds, %s sizes, %s", r.rounds, sizes, r.took.Round(time.Second))})
	for _, f := range about {
		fmt.Fprintf(&b, "- %s: %s\n", f.name, f.value)
	}
	b.WriteString("\n## Results\n\n")
	rows := [][]string{{"name", "ours", "ceiling", "ratio", "target", "verdict"}}
	for _, l := range r.lines {
		rows = append(rows, l.cells())
	}
	table(&b, rows)
	b.WriteString("\n## What the lines are\n\n")
	for _, l := range r.lines {
		fmt.Fprintf(&b, "- **%s.** %s\n", l.name, l.note)
	}
	b.WriteString("\n## Each round\n\n")
	rows = [][]string{{"name", "ours", "ceiling", "our time"}}
	for _, l := range r.lines {
		rows = append(rows, []string{l.name, list(l.ours), list(l.ceiling), strings.Join(l.phases, "; ")})
	}
	table(&b, rows)
	if cpu := r.cpuTable(); len(cpu) > 1 {
		b.WriteString("\n## Where the CPU goes\n\n")
		table(&b, cpu)
	}
	if mem := r.memoryTable(); len(mem) > 1 {
		b.WriteString("\n## Memory\n\nOf several workers, the one that took most.\n\n")
		table(&b, mem)
	}
	return b.String()
}

func list(v []float64) string {
	var out []string
	for _, f := range v {
		out = append(out, figure(f))
	}
	return strings.Join(out, ", ")
}

// table writes rows as Markdown, the first as the head; all columns but the first are figures or short.
func table(b *strings.Builder, rows [][]string) {
	for i, row := range rows {
		cells := slices.Clone(row)
		for j := range cells {
			cells[j] = strings.ReplaceAll(cells[j], "|", `\|`)
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
		if i == 0 {
			fmt.Fprintf(b, "|---%s|\n", strings.Repeat("|---:", len(row)-1))
		}
	}
}
