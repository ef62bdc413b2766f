package chaos

import "syscall"

// attr puts a process into a group of its own, away from the terminal's Ctrl-C, and has the kernel end it with this one.
func attr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
