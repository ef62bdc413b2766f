package extract

import (
	"bytes"
	"errors"
	"html"
	"io"
	"os/exec"
	"strconv"
	"strings"

	"batchwright/internal/document"
)

// pdfToText has poppler read a PDF, in reading order. Its own limits are set before it gets the first byte of the document.
func pdfToText(q request, data []byte) (document.PDF, *document.Error) {
	cmd := exec.Command(q.PDFToText, "-q", "-enc", "UTF-8", "-eol", "unix", "-htmlmeta", "-l", strconv.Itoa(document.MaxPages+1), "-", "-") //nolint:gosec // the operator names it
	cmd.Env = []string{"LC_ALL=C.UTF-8"}
	var out bounded
	var last tail
	cmd.Stdout, cmd.Stderr = &out, &last
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return document.PDF{}, crashed()
	}
	limitTool(cmd.Process.Pid, q.Seconds)
	_, _ = io.Copy(in, bytes.NewReader(data)) // it may give up before the end
	_ = in.Close()
	err = cmd.Wait()
	switch exit, failed := errors.AsType[*exec.ExitError](err); {
	case out.full:
		return document.PDF{}, &document.Error{Code: document.CodeTooLarge, Message: "the text of the document has more bytes than are read"}
	case last.has("Incorrect password", "Permission Error", "Copying of text"):
		return document.PDF{}, &document.Error{Code: document.CodeEncrypted, Message: "the document needs a password: save it without one"}
	case last.has("bad_alloc", "Out of memory"):
		return document.PDF{}, outOfMemory(toolMemory)
	case failed && exit.ExitCode() < 0: // by a signal
		return document.PDF{}, crashed()
	case err != nil:
		return document.PDF{}, &document.Error{Code: document.CodeDamaged, Message: "the document is damaged: its PDF structure can't be read"}
	}
	return pages(out.String(), q.PDF), nil
}

// pages takes apart what pdftotext -htmlmeta writes: the title in a head, then the text as it is between <pre> and </pre>, with a form feed behind
// each page.
func pages(out, extractor string) document.PDF {
	head, text, _ := strings.Cut(out, "<pre>\n")
	if end := strings.LastIndex(text, "</pre>"); end >= 0 {
		text = text[:end]
	}
	_, title, _ := strings.Cut(head, "<title>")
	title, _, _ = strings.Cut(title, "</title>")
	p := document.PDF{Title: html.UnescapeString(title), Pages: strings.Split(text, "\f"), Extractor: extractor}
	if n := len(p.Pages); strings.TrimSpace(p.Pages[n-1]) == "" { // behind the last form feed
		p.Pages = p.Pages[:n-1]
	}
	return p
}

// bounded keeps no more than a document may have.
type bounded struct {
	bytes.Buffer
	full bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > document.MaxBytes {
		b.full = true
		return 0, io.ErrShortBuffer
	}
	return b.Buffer.Write(p)
}
