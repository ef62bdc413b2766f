package embedded

import (
	"os"
	"syscall"
)

const userNamespaces = true

// attr makes a child run as the account.
func (a account) attr() *syscall.SysProcAttr {
	attr := new(syscall.SysProcAttr)
	switch {
	case a.namespace:
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: nobody, HostID: os.Getegid(), Size: 1}}
	case a.switchTo:
		attr.Credential = &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}
	}
	return attr
}

// dieWithParent makes the kernel send the signal when the thread that forks the child ends.
func dieWithParent(attr *syscall.SysProcAttr, signal syscall.Signal) { attr.Pdeathsig = signal }
