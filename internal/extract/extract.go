// Package extract reads documents of strangers in processes of their own, so that a parser which crashes, hangs or eats memory costs one
// document and not the worker.
//
// A [Pool] keeps a few children: the same binary started again, which [Main] turns into a reader before anything else runs. A child gets one
// document at a time over a pipe and answers with its text. It has an empty environment, can write no file, and has limits on memory, open
// files and CPU time (Linux; elsewhere only the wall clock and the size of the answer are bounded). One that doesn't answer in time is
// killed with what it has started, and replaced.
//
// PDFs are read by pdftotext of poppler-utils where that is on the machine, as a child of the child with the same limits, else in Go. Which
// of the two it was is in the document's Extractor.
//
// 2026-12-01: processes and not WebAssembly. A parser compiled to WebAssembly would be safe from its own memory errors, but the ones here
// are in Go, which has none, and what is left (time, memory, stack overflow) a process bounds with means that are older than it. Not taken
// either: a process a document, which costs 20 ms where a small document takes one.
package extract

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"batchwright/internal/document"
)

// Options tune a [Pool]. The zero value is the default.
type Options struct {
	Processes int           // children at once at most; default one a CPU
	Timeout   time.Duration // for one document; default 10 s
	PDFToText string        // the program; default what the PATH has; "off" for none
	Log       *slog.Logger  // is told when a child is lost; nil for nobody
}

// memory is what a child may have, and pdftotext beside it, in bytes.
const (
	childMemory = 384 << 20
	toolMemory  = 256 << 20
)

// Pool reads documents. It is for use by many goroutines; a child is started when one is needed and none is idle.
type Pool struct {
	o       Options
	pdf     string // the extractor of PDFs
	program string
	seats   chan struct{}

	mu     sync.Mutex
	idle   []*child
	closed bool
}

var errClosed = errors.New("extract: the pool is closed")

// New returns a pool without children. The binary must call [Main] first thing.
func New(ctx context.Context, o Options) (*Pool, error) {
	if os.Getenv(childEnv) != "" {
		return nil, errors.New("extract: a child can't have children: extract.Main has to be called first thing in main or TestMain")
	}
	program, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("extract: find this program: %w", err)
	}
	if o.Processes <= 0 {
		o.Processes = runtime.GOMAXPROCS(0)
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	p := &Pool{o: o, program: program, pdf: "pdf", seats: make(chan struct{}, o.Processes)}
	path := o.PDFToText
	p.o.PDFToText = ""
	if path == "" {
		path, _ = exec.LookPath("pdftotext")
	}
	if path == "" || path == "off" {
		return p, nil
	}
	version, err := toolVersion(ctx, path)
	switch {
	case err == nil:
		p.pdf, p.o.PDFToText = version, path
	case o.PDFToText != "":
		return nil, err
	default: // it was only found
		o.Log.WarnContext(ctx, "pdftotext can't be used, PDFs are read in Go", "path", path, "err", err)
	}
	return p, nil
}

// toolVersion asks pdftotext for its name and version.
func toolVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, path, "-v").CombinedOutput() //nolint:gosec // the operator names it
	_, version, ok := strings.Cut(string(out), "pdftotext version ")
	if !ok {
		return "", fmt.Errorf("extract: %s doesn't say which version of pdftotext it is: %w", path, cmp.Or(err, errors.New("it is another program")))
	}
	version, _, _ = strings.Cut(version, "\n")
	return "pdftotext " + strings.TrimSpace(version), nil
}

// PDF names what reads PDFs: "pdf", or pdftotext with its version.
func (p *Pool) PDF() string { return p.pdf }

// Processes is how many documents are read at once.
func (p *Pool) Processes() int { return p.o.Processes }

// Read returns the text of a document in a format that document.Detect has found. What is wrong with the document is a *[document.Error], also
// that it can't be read within the limits; any other error is ours, or ctx's.
func (p *Pool) Read(ctx context.Context, format string, data []byte) (document.Document, error) {
	if !document.Isolated(format) {
		return document.Read(format, data, document.Options{})
	}
	select {
	case p.seats <- struct{}{}:
	case <-ctx.Done():
		return document.Document{}, context.Cause(ctx)
	}
	defer func() { <-p.seats }()
	doc, err := p.try(ctx, format, data)
	if e, ok := errors.AsType[*document.Error](err); ok && e.Code == document.CodeCrashed && ctx.Err() == nil {
		doc, err = p.try(ctx, format, data) // once more: something else may have ended the child
	}
	return doc, err
}

func (p *Pool) try(ctx context.Context, format string, data []byte) (document.Document, error) {
	c, err := p.child()
	if err != nil {
		return document.Document{}, err
	}
	doc, err := c.read(ctx, request{Format: format, PDFToText: p.o.PDFToText, PDF: p.pdf, Seconds: int(p.o.Timeout/time.Second) + 1}, data, p.o.Timeout)
	if c.dead {
		if e, ok := errors.AsType[*document.Error](err); ok {
			p.o.Log.WarnContext(ctx, "reader of documents lost and replaced", "format", format, "bytes", len(data), "why", e.Code)
		}
		return doc, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || c.retired {
		c.stop()
	} else {
		p.idle = append(p.idle, c)
	}
	return doc, err
}

// child returns an idle child, or a new one.
func (p *Pool) child() (*child, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	if n := len(p.idle); n > 0 {
		c := p.idle[n-1]
		p.idle = p.idle[:n-1]
		return c, nil
	}
	return start(p.program)
}

// Close ends the children that are idle, and the others when they are done.
func (p *Pool) Close() {
	p.mu.Lock()
	idle := p.idle
	p.idle, p.closed = nil, true
	p.mu.Unlock()
	for _, c := range idle {
		c.stop()
	}
}
