package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// program is a process of Batchwright's own under a supervisor, which starts it again whenever it ends.
type program struct {
	name string
	path string
	log  string // file that all its lives append to
	env  []string
	say  func(format string, args ...any)

	mu     sync.Mutex
	cmd    *exec.Cmd     // of the life under way; nil between two
	arms   string        // fault points of the next life
	pause  time.Duration // before the next life
	over   bool          // no more lives
	ended  chan struct{} // closed with the life under way
	done   chan struct{} // closed with the supervisor
	lives  int
	peak   int64 // most memory that any life had, in kB
	crimes []string
}

const defaultPause = 250 * time.Millisecond

// run supervises until ctx ends or retire is called.
func (p *program) run(ctx context.Context) {
	defer close(p.done)
	for {
		p.mu.Lock()
		if p.over || ctx.Err() != nil {
			p.mu.Unlock()
			return
		}
		err := p.begin()
		p.mu.Unlock()
		if err != nil {
			p.accuse("can't be started: %v", err)
			return
		}
		<-p.ended
		p.mu.Lock()
		pause := max(p.pause, defaultPause)
		p.pause = 0
		p.mu.Unlock()
		_ = wait(ctx, pause)
	}
}

// begin starts a life. The caller holds the lock.
func (p *program) begin() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	cmd := exec.Command(p.path)
	cmd.Env = p.env
	if p.arms != "" {
		cmd.Env = append(cmd.Env[:len(cmd.Env):len(cmd.Env)], "BATCHWRIGHT_FAULT="+p.arms)
		p.arms = ""
	}
	cmd.Stderr, cmd.Stdout, cmd.SysProcAttr = log, log, attr()
	ended := make(chan struct{})
	started := make(chan error)
	go func() { // ends with the process; run waits for it
		runtime.LockOSThread() // the kernel ties the parent-death signal to the thread that forked
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			var scales sync.WaitGroup
			scales.Go(func() { p.weigh(cmd.Process.Pid, ended) })
			p.lived(cmd, cmd.Wait())
			close(ended)
			scales.Wait()
		}
		_ = log.Close()
	}()
	if err := <-started; err != nil {
		return err
	}
	p.cmd, p.ended = cmd, ended
	p.lives++
	return nil
}

// lived notes how a life ended. One that was killed or stopped did so as it should; so did one that gave up because its database was
// away when it started, as supervisors expect.
func (p *program) lived(cmd *exec.Cmd, err error) {
	p.mu.Lock()
	p.cmd = nil
	p.mu.Unlock()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		status, _ := exit.Sys().(syscall.WaitStatus)
		p.say("%s (pid %d) ended: %v", p.name, cmd.Process.Pid, err)
		if status.Exited() && status.ExitStatus() != 1 { // 2 is a panic
			p.accuse("ended with status %d", status.ExitStatus())
		}
	}
}

// weigh notes the most memory of a life while it lasts. What is reported at its end won't do: that counts from before the program was its own, when
// it shared the memory of whoever started it.
func (p *program) weigh(pid int, ended <-chan struct{}) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ended:
			return
		case <-tick.C:
		}
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // not there on other systems, and after the end
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		if f := strings.Fields(rest); len(f) > 0 {
			kB, _ := strconv.ParseInt(f[0], 10, 64)
			p.mu.Lock()
			p.peak = max(p.peak, kB)
			p.mu.Unlock()
		}
	}
}

func (p *program) accuse(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crimes = append(p.crimes, p.name+" "+fmt.Sprintf(format, args...))
}

// signal sends a signal to the life under way, if there is one. Its successor, should it die of it, comes after pause.
func (p *program) signal(s syscall.Signal, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return
	}
	p.pause = pause
	_ = p.cmd.Process.Signal(s) // gone already: the supervisor sees it
}

// freeze suspends the life under way, as a machine that sleeps would.
func (p *program) freeze(ctx context.Context, d time.Duration) {
	p.mu.Lock()
	cmd := p.cmd
	p.mu.Unlock()
	if cmd == nil {
		return
	}
	_ = cmd.Process.Signal(syscall.SIGSTOP)
	_ = wait(ctx, d)
	_ = cmd.Process.Signal(syscall.SIGCONT)
}

// retire ends the last life in order. One that doesn't end by itself is killed, and accused of it.
func (p *program) retire(patience time.Duration) {
	p.mu.Lock()
	p.over = true
	cmd := p.cmd
	p.mu.Unlock()
	if cmd != nil {
		_ = cmd.Process.Signal(syscall.SIGCONT)
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
		p.accuse("didn't end within %s of SIGTERM", patience)
		p.abort()
	}
}

// abort kills the last life.
func (p *program) abort() {
	p.mu.Lock()
	p.over = true
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
	}
	p.mu.Unlock()
	<-p.done
}

// mostMemory is far above what a process of ours needs for a few hundred jobs, in kB.
const mostMemory = 400 << 10

// findings are what is wrong with the program's lives.
func (p *program) findings() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := append([]string(nil), p.crimes...)
	if p.peak > mostMemory {
		out = append(out, p.name+" took "+strconv.FormatInt(p.peak>>10, 10)+" MiB of memory")
	}
	text, err := os.ReadFile(p.log)
	if err != nil {
		return append(out, err.Error())
	}
	for line := range strings.Lines(string(text)) {
		for _, sign := range []string{"panic", "fatal error:", "DATA RACE", "job failed on our side"} {
			if strings.Contains(line, sign) {
				out = append(out, p.name+" logged: "+strings.TrimSpace(line))
			}
		}
	}
	return out
}
