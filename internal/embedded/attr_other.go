//go:build !linux

package embedded

import "syscall"

const userNamespaces = false

// attr makes a child run as the account.
func (a account) attr() *syscall.SysProcAttr {
	attr := new(syscall.SysProcAttr)
	if a.switchTo {
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}

// dieWithParent does nothing: only Linux has a parent-death signal.
func dieWithParent(*syscall.SysProcAttr, syscall.Signal) {}
