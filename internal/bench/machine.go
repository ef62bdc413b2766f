package bench

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// fact is a line of the report's head.
type fact struct{ name, value string }

// machine is where the figures come from. What can't be found out is left empty.
type machine struct {
	cpu    string
	cores  int
	memory string
	kernel string
	load   string
}

func readMachine() machine {
	m := machine{cores: runtime.NumCPU(), cpu: runtime.GOARCH, kernel: runtime.GOOS}
	if v := fieldOf("/proc/cpuinfo", "model name"); v != "" {
		m.cpu = v
	}
	if kb, err := strconv.ParseInt(strings.TrimSuffix(fieldOf("/proc/meminfo", "MemTotal"), " kB"), 10, 64); err == nil {
		m.memory = fmt.Sprintf("%.0f GiB", float64(kb)/(1<<20))
	}
	if b, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.kernel = "Linux " + strings.TrimSpace(string(b))
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 2 {
			m.load = strings.Join(f[:3], " ")
		}
	}
	return m
}

func (m machine) facts() []fact {
	f := []fact{{"Machine", fmt.Sprintf("%s, %d cores, %s, %s", m.cpu, m.cores, m.memory, m.kernel)}}
	if m.load != "" {
		f = append(f, fact{"Load before", m.load + " (others' work included)"})
	}
	return append(f, fact{"Go", runtime.Version()})
}

// fieldOf reads "name : value" from a file of /proc.
func fieldOf(path, name string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// peakRSS is the most memory that a process ever had resident, in MiB; 0 where there is no /proc.
func peakRSS(pid int) float64 {
	kb, err := strconv.ParseFloat(strings.TrimSuffix(fieldOf(fmt.Sprintf("/proc/%d/status", pid), "VmHWM"), " kB"), 64)
	if err != nil {
		return 0
	}
	return kb / 1024
}

// forgetPeak begins the peak of a process's resident memory anew, where the kernel can.
func forgetPeak(pid int) {
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0) // elsewhere the peak is the process's whole life's
}

// memory is the peak of the resident memory in MiB, by process; of several with a name, the largest.
type memory map[string]float64

// usage is CPU time by process.
type usage map[string]time.Duration

// sub returns what was used since before.
func (u usage) sub(before usage) usage {
	d := usage{}
	for name, t := range u {
		d[name] = t - before[name]
	}
	return d
}

// per spreads usage over n.
func (u usage) per(n int) usage {
	d := usage{}
	for name, t := range u {
		d[name] = t / time.Duration(n)
	}
	return d
}

// stat is what /proc tells of a process.
type stat struct {
	parent   int
	name     string
	own      time.Duration // user and system
	children time.Duration // of those that it has waited for
}

// readStat reads /proc/PID/stat. Its times are in hundredths of a second on every Linux.
func readStat(pid int) (stat, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, false
	}
	_, rest, _ := strings.Cut(string(b), "(")
	end := strings.LastIndexByte(rest, ')') // the name may hold anything
	if end < 0 {
		return stat{}, false
	}
	f := strings.Fields(rest[end+1:])
	if len(f) < 15 {
		return stat{}, false
	}
	ticks := func(i int) time.Duration {
		n, _ := strconv.ParseInt(f[i], 10, 64) // the kernel writes numbers
		return time.Duration(n) * 10 * time.Millisecond
	}
	parent, _ := strconv.Atoi(f[1]) // as above
	return stat{parent, rest[:end], ticks(11) + ticks(12), ticks(13) + ticks(14)}, true
}

// treeTime is the CPU time of a process and of all children that it has or had.
func treeTime(pid int) (time.Duration, bool) {
	root, ok := readStat(pid)
	if !ok {
		return 0, false
	}
	sum := root.own + root.children
	dirs, _ := filepath.Glob("/proc/[0-9]*") // the pattern is valid
	for _, d := range dirs {
		child, _ := strconv.Atoi(filepath.Base(d)) // the pattern says so
		if s, ok := readStat(child); ok && s.parent == pid {
			sum += s.own + s.children
		}
	}
	return sum, true
}
