package extract

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"batchwright/internal/document"
)

// childEnv marks the environment of a child.
const childEnv = "BATCHWRIGHT_EXTRACT_CHILD"

// request asks for the text of the document that follows it.
type request struct {
	Format    string
	PDFToText string // path; empty to read PDFs in Go
	PDF       string // its name and version
	Seconds   int    // of CPU
}

// response is followed by the text.
type response struct {
	Document document.Document // without its text
	Error    *document.Error
	Retire   bool // the child has grown: it ends
}

// A message is two blocks, a head in JSON and a body, each behind its length.
func send(w io.Writer, head any, body []byte) error {
	raw, err := json.Marshal(head)
	if err != nil {
		return err
	}
	for _, block := range [][]byte{raw, body} {
		if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(block)))); err != nil { //nolint:gosec // at most MaxBytes
			return err
		}
		if _, err := w.Write(block); err != nil {
			return err
		}
	}
	return nil
}

func receive(r io.Reader, head any) (body []byte, err error) {
	var raw []byte
	if raw, err = block(r, 1<<20); err == nil {
		err = json.Unmarshal(raw, head)
	}
	if err != nil {
		return nil, err
	}
	return block(r, document.MaxBytes)
}

func block(r io.Reader, most uint32) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > most {
		return nil, errors.New("extract: a message is too long")
	}
	out := make([]byte, n)
	_, err := io.ReadFull(r, out)
	return out, err
}

// child is a process that reads documents, seen from outside.
type child struct {
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     io.ReadCloser
	last    *tail
	ready   bool // has said that it is a reader
	retired bool // asked to be ended
	dead    bool // was killed, or died

	mu   sync.Mutex
	gone bool // waited for: its number may be another process's
}

// kill ends the child and what it has started.
func (c *child) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		killGroup(c.cmd)
	}
}

// wait releases the child, which has been killed.
func (c *child) wait() {
	_ = c.in.Close()
	_ = c.out.Close()
	_ = c.cmd.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
}

func start(program string) (*child, error) {
	cmd := exec.Command(program)                                              //nolint:gosec // this program
	cmd.Env = []string{childEnv + "=1", "GOTRACEBACK=none", "LC_ALL=C.UTF-8"} // nothing else: the parent's holds passwords
	ownGroup(cmd)
	c := &child{cmd: cmd, last: &tail{}}
	cmd.Stderr = c.last
	var err error
	if c.in, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("extract: start a reader: %w", err)
	}
	if c.out, err = cmd.StdoutPipe(); err != nil {
		return nil, fmt.Errorf("extract: start a reader: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("extract: start a reader: %w", err)
	}
	return c, nil
}

// startTimeout bounds how long a child takes to begin, on the busiest machine. A document's own time begins after that.
const startTimeout = 30 * time.Second

// read sends a document and waits for its text. Without an answer in time, or with none at all, the child is dead.
func (c *child) read(ctx context.Context, q request, data []byte, timeout time.Duration) (document.Document, error) {
	if !c.ready {
		var said string
		if _, err := c.await(ctx, startTimeout, fmt.Errorf("extract: a reader doesn't start within %s", startTimeout), &said); err != nil {
			return document.Document{}, err
		}
		c.ready = true
	}
	var sending sync.WaitGroup
	sending.Go(func() { _ = send(c.in, q, data) }) // the child may die before it has read all, which shows where its answer is read
	var a response
	text, err := c.await(ctx, timeout, &document.Error{Code: document.CodeTimeout, Message: fmt.Sprintf("the document can't be read within %s", timeout)}, &a)
	sending.Wait() // a child that has answered has read all, and one that is dead takes no more
	if err != nil {
		return document.Document{}, err
	}
	if c.retired = a.Retire; a.Error != nil {
		return document.Document{}, a.Error
	}
	a.Document.Text = string(text)
	return a.Document, nil
}

// await waits for the child's next message. Without one in time, or with none at all, it is dead; the error says why, late if it was that.
func (c *child) await(ctx context.Context, timeout time.Duration, late error, head any) (body []byte, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, late)
	defer cancel()
	unwatch := context.AfterFunc(ctx, c.kill)
	body, err = receive(c.out, head)
	if !unwatch() || err != nil {
		c.dead = true
		c.kill()
		c.wait()
		return nil, c.reason(ctx, err)
	}
	return body, nil
}

// reason says why a child died.
func (c *child) reason(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return cause
	case c.last.has("out of memory", "cannot allocate memory", "failed to create new OS thread"):
		return outOfMemory(childMemory)
	case c.ready:
		return crashed()
	}
	return fmt.Errorf("extract: this program doesn't serve as a reader: extract.Main has to be called first thing in main or TestMain: %w", err)
}

func outOfMemory(limit int) *document.Error {
	return &document.Error{Code: document.CodeMemory, Message: fmt.Sprintf("the document can't be read within %d MiB of memory", limit>>20)}
}

func crashed() *document.Error {
	return &document.Error{Code: document.CodeCrashed, Message: "the reader of the document's format broke down over it"}
}

// stop ends an idle child.
func (c *child) stop() {
	c.kill()
	c.wait()
}

// tail keeps the first bytes that a child writes to its standard error: what it died of comes first.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p[:min(len(p), 4096-len(t.text))]...)
	return len(p), nil
}

func (t *tail) has(any ...string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range any {
		if strings.Contains(string(t.text), s) {
			return true
		}
	}
	return false
}

// hello is the first message of a child.
const hello = "batchwright reader"

// Main returns at once, unless this process was started as a reader of documents: then it is one, and ends. It has to be called before
// anything else in the main function, or TestMain, of a program that has a [Pool].
func Main() {
	if os.Getenv(childEnv) == "" {
		return
	}
	limit()
	in, out := bufio.NewReaderSize(os.Stdin, 64<<10), bufio.NewWriterSize(os.Stdout, 64<<10)
	if send(out, hello, nil) != nil || out.Flush() != nil {
		os.Exit(0) // the parent is gone
	}
	for {
		var q request
		data, err := receive(in, &q)
		if err != nil {
			os.Exit(0) // the parent is gone
		}
		limitCPU(q.Seconds)
		doc, problem := serve(q, data)
		text := doc.Text
		doc.Text = ""
		a := response{Document: doc, Error: problem, Retire: grown()}
		if send(out, a, []byte(text)) != nil || out.Flush() != nil {
			os.Exit(0)
		}
	}
}

// serve reads one document. A panic costs only that.
func serve(q request, data []byte) (doc document.Document, problem *document.Error) {
	defer func() {
		if recover() != nil {
			doc, problem = document.Document{}, crashed()
		}
	}()
	var o document.Options
	if q.PDFToText != "" {
		o.PDF = func(data []byte) (document.PDF, *document.Error) { return pdfToText(q, data) }
	}
	doc, err := document.Read(q.Format, data, o)
	if err != nil {
		if e, ok := errors.AsType[*document.Error](err); ok {
			return document.Document{}, e
		}
		return document.Document{}, crashed()
	}
	return doc, nil
}
