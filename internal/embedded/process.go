package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// process is a running server.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it is gone
	err  error         // what it ended with; read after done
}

// spawn starts cmd so that it gets dying when this process ends, however it ends. cmd writes to files, never to
// pipes: they would have to be read until the last grandchild closes them.
//
// The kernel ties the signal to the thread that forked and not to the process, so that thread is kept until the
// child is gone.
func spawn(cmd *exec.Cmd, dying syscall.Signal) (*process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithParent(cmd.SysProcAttr, dying)
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error)
	go func() { // ends with the child; stop waits for it
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// gone tells whether the process has ended.
func (p *process) gone() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// stop sends the signal and waits; when ctx ends first, the process is killed. A server that answers our signal may
// exit as it likes; only one that had to be killed is an error.
func (p *process) stop(ctx context.Context, with syscall.Signal) error {
	if p.gone() {
		return nil
	}
	_ = p.cmd.Process.Signal(with) // gone already: done tells
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // the group is its own, and not yet waited for
	<-p.done
	return fmt.Errorf("killed %s: %w", p.cmd.Path, context.Cause(ctx))
}

// watch calls lost if the process ends before quiet is closed.
func (p *process) watch(lost func()) (quiet func()) {
	stopped, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with quiet
		defer close(ended)
		select {
		case <-stopped:
		case <-p.done:
			select {
			case <-stopped:
			default:
				lost()
			}
		}
	}()
	return func() {
		close(stopped)
		<-ended
	}
}

// output runs a short command to its end and returns what it printed. When ctx ends it is killed with all it
// started. Its error carries the line of its standard error that tells best why.
func output(ctx context.Context, cmd *exec.Cmd) (string, error) {
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setpgid = true
	dieWithParent(cmd.SysProcAttr, syscall.SIGKILL)
	cmd.WaitDelay = time.Second
	if err := ctx.Err(); err != nil {
		return "", context.Cause(ctx)
	}

	runtime.LockOSThread() // see spawn
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return "", err
	}
	unhook := context.AfterFunc(ctx, func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	err := cmd.Wait()
	if !unhook() {
		return "", fmt.Errorf("%s: %w", cmd.Args[0], context.Cause(ctx))
	}
	if err != nil {
		if line := telling(complaint.String()); line != "" {
			err = fmt.Errorf("%w: %s", err, line)
		}
		return "", fmt.Errorf("%s: %w", cmd.Args[0], err)
	}
	return out.String(), nil
}

// telling is apt's first error, since its last one only sums up, and otherwise the last line.
func telling(text string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "E: ") {
			return strings.TrimSpace(line)
		}
	}
	return lastLine(text)
}

// lastLine is the last line of text that says something.
func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return strings.TrimSpace(text[strings.LastIndexByte(text, '\n')+1:])
}

// fatalLine is the line of a server's log that tells best why it ended: the last FATAL, or else the last.
func fatalLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "no log"
	}
	lines := strings.Split(string(text), "\n")
	for i := len(lines) - 1; i >= 0; i-- {
		if strings.Contains(lines[i], "FATAL:") || strings.Contains(lines[i], "PANIC:") {
			return strings.TrimSpace(lines[i])
		}
	}
	return lastLine(string(text))
}

// eventually polls check until it reports true, fails, or ctx ends.
func eventually(ctx context.Context, every time.Duration, check func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if ok, err := check(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// errExited says that a server ended while it was waited for.
var errExited = errors.New("exited")
