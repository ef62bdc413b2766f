package bench

import "syscall"

// attr puts a process into a group of its own, away from the terminal's Ctrl-C, and has the kernel end it with its
// parent.
func attr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}
