//go:build !linux

package extract

import (
	"os/exec"
	"runtime"
	"runtime/debug"
)

// limit bounds this process as far as Go can: the kernels that this is for have no limit that Go's runtime survives.
func limit() {
	runtime.GOMAXPROCS(2)
	debug.SetMemoryLimit(childMemory / 4 * 3)
	debug.SetMaxStack(64 << 20)
}

func limitCPU(int) {}

func limitTool(_, _ int) {}

func grown() bool {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Sys-m.HeapReleased > childMemory/4
}

func ownGroup(*exec.Cmd) {}

func killGroup(cmd *exec.Cmd) { _ = cmd.Process.Kill() }
