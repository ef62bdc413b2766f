package extract

import (
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"syscall"

	"golang.org/x/sys/unix"
)

// limit bounds this process. Memory is bounded as data (private pages that can be written), not as address space: Go reserves far more of
// that than it ever touches. It can write no file, so none can be left behind.
func limit() {
	runtime.GOMAXPROCS(2) // a document is read by one goroutine, beside the collector
	debug.SetMemoryLimit(childMemory / 4 * 3)
	debug.SetMaxStack(64 << 20)
	if !race {
		_ = unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: childMemory, Max: childMemory})
	}
	for resource, value := range map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_FSIZE: 0, unix.RLIMIT_NOFILE: 64} {
		_ = unix.Setrlimit(resource, &unix.Rlimit{Cur: value, Max: value})
	}
}

// limitCPU lets this process run for so many more seconds.
func limitCPU(seconds int) {
	var used unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &used) != nil {
		return
	}
	var now unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_CPU, &now) == nil {
		now.Cur = uint64(used.Utime.Sec+used.Stime.Sec) + 2*uint64(seconds) // on two threads
		_ = unix.Setrlimit(unix.RLIMIT_CPU, &now)
	}
}

// limitTool bounds a process that this one has started.
func limitTool(pid, seconds int) {
	for resource, value := range map[int]uint64{unix.RLIMIT_DATA: toolMemory, unix.RLIMIT_CPU: uint64(seconds)} {
		_ = unix.Prlimit(pid, resource, &unix.Rlimit{Cur: value, Max: value}, nil)
	}
}

// grown reports whether this process holds so much memory that a fresh one is better.
func grown() bool {
	m := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(m)
	return m[0].Value.Uint64()-m[1].Value.Uint64() > childMemory/4
}

func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func killGroup(cmd *exec.Cmd) { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
