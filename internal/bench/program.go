package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// program is a process of Batchwright's own.
type program struct {
	name  string
	cmd   *exec.Cmd
	log   *logReader
	ended chan struct{} // closed when it is gone
	err   error         // what it ended with; read after ended
}

const readyLimit = 30 * time.Second

// startProgram runs a binary with nothing but env in its environment, and waits until its log has each of the messages
// in await. The process is told to end when this one does, however it does.
func startProgram(ctx context.Context, name, path string, env []string, await ...string) (*program, error) {
	p := &program{name: name, cmd: exec.Command(path), log: newLogReader(), ended: make(chan struct{})}
	p.cmd.Env = append([]string{"LOG_LEVEL=info", "LOG_FORMAT=json"}, env...)
	p.cmd.Stderr = p.log
	p.cmd.SysProcAttr = attr()
	started := make(chan error)
	go func() { // ends with the process; stop waits for it
		runtime.LockOSThread() // the kernel ties the parent-death signal to the thread that forked
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.ended)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("%s is not ready after %s", name, readyLimit))
	defer cancel()
	for _, message := range await {
		select {
		case <-p.log.seen(message):
		case <-p.ended:
			return nil, fmt.Errorf("%s ended: %w: %s", name, errors.Join(p.err), p.log.last())
		case <-ctx.Done():
			return nil, errors.Join(context.Cause(ctx), p.stop(ctx))
		}
	}
	return p, nil
}

// stop ends the process in order, or kills it when that takes too long. It may be called on nil.
func (p *program) stop(ctx context.Context) error {
	if p == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
	defer cancel()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // gone already: ended tells
	select {
	case <-p.ended:
		if p.err != nil {
			return fmt.Errorf("%s ended: %w: %s", p.name, p.err, p.log.last())
		}
		return nil
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		<-p.ended
		return fmt.Errorf("%s did not end within %s and was killed", p.name, stopLimit)
	}
}

func (p *program) pid() int { return p.cmd.Process.Pid }

// logReader follows a process's log: it remembers the address that each message came with, and the last warning.
type logReader struct {
	mu       sync.Mutex
	partial  []byte
	addrs    map[string]string
	waiting  map[string]chan struct{}
	lastLine string
}

func newLogReader() *logReader {
	return &logReader{addrs: map[string]string{}, waiting: map[string]chan struct{}{}}
}

// Write implements io.Writer.
func (l *logReader) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.partial = append(l.partial, p...)
	for {
		i := bytes.IndexByte(l.partial, '\n')
		if i < 0 {
			return len(p), nil
		}
		l.read(l.partial[:i])
		l.partial = l.partial[i+1:]
	}
}

func (l *logReader) read(text []byte) {
	var entry struct{ Level, Msg, Addr string }
	if json.Unmarshal(text, &entry) != nil || entry.Level != "INFO" {
		l.lastLine = string(text)
	}
	if entry.Msg == "" {
		return
	}
	if _, ok := l.addrs[entry.Msg]; !ok {
		l.addrs[entry.Msg] = entry.Addr
		close(l.wait(entry.Msg))
	}
}

func (l *logReader) wait(message string) chan struct{} {
	if l.waiting[message] == nil {
		l.waiting[message] = make(chan struct{})
	}
	return l.waiting[message]
}

// seen is closed once the message was logged.
func (l *logReader) seen(message string) <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.wait(message)
}

// addr is the address that a message came with.
func (l *logReader) addr(message string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.addrs[message]
}

// last is the last line that wasn't plain information.
func (l *logReader) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lastLine
}

// startBackends runs this program again to serve what args say, and returns the addresses. It ends when stop closes its
// standard input, or the kernel does so for us.
func startBackends(self string, args ...string) (p *exec.Cmd, addrs []string, stop func() error, err error) {
	cmd := exec.Command(self, args...)
	cmd.Env = []string{}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	stop = func() error {
		_ = in.Close()
		return cmd.Wait()
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "" {
		addrs = append(addrs, lines.Text())
	}
	if err := lines.Err(); err != nil || len(addrs) == 0 {
		return nil, nil, nil, errors.Join(fmt.Errorf("%s did not start", args[0]), err, stop())
	}
	go func() { _, _ = io.Copy(io.Discard, out) }() // ends with the process
	return cmd, addrs, stop, nil
}
