//go:build !linux

package chaos

import "syscall"

// attr puts a process into a group of its own, away from the terminal's Ctrl-C.
func attr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
