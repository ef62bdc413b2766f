package extract

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"batchwright/internal/document"
	"batchwright/internal/document/documenttest"
	"batchwright/internal/programs"
)

func TestMain(m *testing.M) {
	Main()
	goleak.VerifyTestMain(m)
}

const prose = "The quick brown fox jumps over the lazy dog."

func open(t *testing.T, o Options) *Pool {
	t.Helper()
	p, err := New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// tools are the readers of PDFs that the machine has.
func tools(t *testing.T) []string {
	t.Helper()
	if path := os.Getenv("PDFTOTEXT"); path != "" && path != "off" {
		return []string{"off", path}
	}
	if path, err := exec.LookPath("pdftotext"); err == nil {
		return []string{"off", path}
	}
	t.Log("no pdftotext on this machine (Debian: apt-get install poppler-utils): PDFs are read in Go only")
	return []string{"off"}
}

func TestDocumentsAreReadInChildren(t *testing.T) {
	t.Parallel()
	for _, tool := range tools(t) {
		p := open(t, Options{Processes: 2, PDFToText: tool})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				doc, err := p.Read(t.Context(), "pdf", documenttest.PDF("T", []string{prose}, []string{"and once more " + prose}))
				if err != nil || doc.Title != "T" || doc.Text != prose+"\n\nand once more "+prose || doc.Pages != 2 || doc.Extractor != p.PDF() {
					t.Errorf("got %q %q %d %q, %v", doc.Title, doc.Text, doc.Pages, doc.Extractor, err)
				}
				_, err = p.Read(t.Context(), "docx", []byte("PK"))
				if e, ok := errors.AsType[*document.Error](err); !ok || e.Code != document.CodeDamaged {
					t.Errorf("got %v", err)
				}
			})
		}
		wg.Wait()
		p.mu.Lock()
		if n := len(p.idle); n == 0 || n > 2 {
			t.Errorf("%d children", n)
		}
		p.mu.Unlock()
	}
}

// A child that is stopped hangs like one in an endless loop, and one that is killed is gone like one that ran out of stack.
// awaitStopped waits until a signal has stopped a process: it may answer before.
func awaitStopped(t *testing.T, pid int) {
	t.Helper()
	late := time.After(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		if _, state, _ := strings.Cut(string(stat), ") "); strings.HasPrefix(state, "T") {
			return
		}
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("process %d goes on: %s", pid, stat)
		}
	}
}

func TestALostChildCostsOneDocument(t *testing.T) {
	t.Parallel()
	page := documenttest.PDF("T", []string{prose})
	for _, c := range []struct {
		signal syscall.Signal
		code   document.Code
	}{{syscall.SIGSTOP, document.CodeTimeout}, {syscall.SIGKILL, ""}} {
		p := open(t, Options{Processes: 1, Timeout: 500 * time.Millisecond, PDFToText: "off"})
		if _, err := p.Read(t.Context(), "pdf", page); err != nil {
			t.Fatal(err)
		}
		pid := p.idle[0].cmd.Process.Pid
		if err := syscall.Kill(pid, c.signal); err != nil {
			t.Fatal(err)
		}
		if c.signal == syscall.SIGSTOP {
			awaitStopped(t, pid)
		}
		_, err := p.Read(t.Context(), "pdf", page)
		if e, _ := errors.AsType[*document.Error](err); c.code == "" && err != nil || c.code != "" && (e == nil || e.Code != c.code) {
			t.Errorf("signal %d: %v, want %q", c.signal, err, c.code)
		}
		if _, err := p.Read(t.Context(), "pdf", page); err != nil {
			t.Errorf("after signal %d: %v", c.signal, err)
		}
	}
}

func TestReadingEndsWithItsContext(t *testing.T) {
	t.Parallel()
	p := open(t, Options{Processes: 1, PDFToText: "off"})
	page := documenttest.PDF("T", []string{prose})
	if _, err := p.Read(t.Context(), "pdf", page); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(p.idle[0].cmd.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Read(ctx, "pdf", page); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// On a busy machine a reader may take longer to start than a document may take.
func TestADocumentsTimeBeginsWhenItsReaderIsReady(t *testing.T) {
	t.Parallel()
	const timeout, start = 2, 3 // seconds
	p := open(t, Options{Processes: 1, PDFToText: "off", Timeout: timeout * time.Second})
	slow := filepath.Join(t.TempDir(), "slow")
	script := fmt.Sprintf("#!/bin/sh\nsleep %d\nexec '%s'\n", start, p.program)
	if err := os.WriteFile(slow, []byte(script), 0o700); err != nil { //nolint:gosec // it is a program
		t.Fatal(err)
	}
	p.program = slow
	if _, err := p.Read(t.Context(), "pdf", documenttest.PDF("T", []string{prose})); err != nil {
		t.Error(err)
	}
}

func TestAProgramThatIsNoReaderIsToldFromABrokenDocument(t *testing.T) {
	t.Parallel()
	p := open(t, Options{Processes: 1, PDFToText: "off"})
	p.program = "/bin/true"
	_, err := p.Read(t.Context(), "pdf", documenttest.PDF("T", []string{prose}))
	if e, ok := errors.AsType[*document.Error](err); err == nil || ok {
		t.Errorf("got %v, %v", err, e)
	}
}

func TestChildrenHaveNoSecrets(t *testing.T) {
	t.Parallel()
	c, err := start(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer c.stop()
	for _, v := range c.cmd.Env {
		if name, _, _ := strings.Cut(v, "="); name != childEnv && name != "GOTRACEBACK" && name != "LC_ALL" {
			t.Errorf("a child's environment has %s", name)
		}
	}
}

// Each hostile document is read or refused in time and within 512 MiB, by the readers of the program that users run.
func TestHostileDocuments(t *testing.T) {
	t.Parallel()
	bin, err := programs.Build(t.Context(), "", "worker")
	if err != nil {
		t.Fatal(err)
	}
	const timeout = 2 * time.Second // what a document may take is the operator's choice; what it may not is longer than that
	for _, tool := range tools(t) {
		for h := range documenttest.Corpus {
			if tool != "off" && h.Format != "pdf" {
				continue
			}
			p := open(t, Options{Processes: 1, PDFToText: tool, Timeout: timeout})
			p.program = filepath.Join(bin, "worker")
			c, err := p.child()
			if err != nil {
				t.Fatal(err)
			}
			p.idle = []*child{c}
			peak := watch(c.cmd.Process.Pid)
			began := time.Now()
			doc, err := p.Read(t.Context(), h.Format, h.Data)
			took := time.Since(began)
			most := peak()
			what := "read"
			if err != nil {
				e, ok := errors.AsType[*document.Error](err)
				if !ok {
					t.Errorf("%s, %s: %v", h.Format, h.Name, err)
					continue
				}
				what = string(e.Code)
			}
			t.Logf("%-5s %-40s %-12s %8d bytes %6.2f s %4d MiB %s", h.Format, h.Name, what, len(doc.Text), took.Seconds(), most, p.PDF())
			if took > 10*time.Second {
				t.Errorf("%s, %s: took %s", h.Format, h.Name, took)
			}
			if most > 512 {
				t.Errorf("%s, %s: took %d MiB", h.Format, h.Name, most)
			}
		}
	}
}

// watch returns a function that says how many MiB a process and its children had at most, taken together.
func watch(pid int) (peak func() int) {
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		most := 0
		for {
			most = max(most, resident(pid))
			select {
			case <-tick.C:
			case <-stop:
				done <- max(most, resident(pid))
				return
			}
		}
	}()
	return func() int { close(stop); return <-done }
}

// resident returns the high-water mark of a process's memory and its children's, in MiB; 0 when it is gone.
func resident(pid int) int {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, line, _ := strings.Cut(string(status), "VmHWM:")
	kib := 0
	_, _ = fmt.Sscanf(line, "%d kB", &kib)
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		children, _ := os.ReadFile(list)
		for _, field := range strings.Fields(string(children)) {
			if child, err := strconv.Atoi(field); err == nil {
				kib += resident(child) << 10
			}
		}
	}
	return kib >> 10
}
