package document

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"strings"

	"golang.org/x/net/html/charset"
)

func init() {
	register(format{
		name:       "eml",
		mediaTypes: []string{"message/rfc822"},
		extensions: []string{".eml"},
		isolated:   true,
		sniff:      func(head, _ []byte) bool { return beginsMail(head) },
		extract:    extractEML,
	})
}

const (
	maxMailDepth = 10
	maxMailParts = 1_000
)

// beginsMail reports whether a block of header fields comes first, with a sender and what only mail has.
func beginsMail(head []byte) bool {
	from, sure := false, false
	for i, line := range strings.Split(string(head), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if i == 0 && strings.HasPrefix(line, "From ") || line != "" && (line[0] == ' ' || line[0] == '\t') && i > 0 {
			continue
		}
		name, _, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") {
			break // the end of the block, or no block
		}
		switch strings.ToLower(name) {
		case "from":
			from = true
		case "message-id", "received", "mime-version", "return-path", "delivered-to":
			sure = true
		}
	}
	return from && sure
}

// extractEML returns the sender, the recipients, the subject and the date, the best of the texts, and the names of the
// attachments, which are not read.
func extractEML(data []byte, _ Options) (Document, *Error) {
	if bytes.HasPrefix(data, []byte("From ")) { // as a mailbox has it
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
	m, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		return Document{}, damaged("its header is not that of a mail")
	}
	e := &letter{}
	if err := e.walk(m.Header.Get, m.Body, 0); err != nil {
		return Document{}, err
	}
	var b strings.Builder
	var doc Document
	words := mime.WordDecoder{CharsetReader: func(label string, r io.Reader) (io.Reader, error) { return charset.NewReaderLabel(label, r) }}
	for _, name := range []string{"From", "To", "Cc", "Subject", "Date"} {
		value, err := words.DecodeHeader(m.Header.Get(name))
		if err != nil {
			value = m.Header.Get(name)
		}
		if value = strings.Join(strings.Fields(strings.ToValidUTF8(value, "\uFFFD")), " "); value == "" {
			continue
		}
		fmt.Fprintf(&b, "%s: %s\n", name, value)
		if name == "Subject" {
			doc.Title = value
		}
	}
	b.WriteString("\n" + strings.TrimSpace(e.body()) + "\n")
	if len(e.attached) > 0 {
		fmt.Fprintf(&b, "\nAttachments, not read: %s\n", strings.Join(e.attached, ", "))
	}
	doc.Text = b.String()
	return doc, nil
}

// letter collects the parts of a mail.
type letter struct {
	plain, page strings.Builder
	attached    []string
	parts       int
}

func (e *letter) body() string {
	if strings.TrimSpace(e.plain.String()) != "" {
		return e.plain.String()
	}
	return e.page.String()
}

// walk takes a part with what is in it.
func (e *letter) walk(header func(string) string, body io.Reader, depth int) *Error {
	if e.parts++; depth > maxMailDepth || e.parts > maxMailParts {
		return errorf(CodeTooComplex, "the mail has more than %d parts, or parts nested deeper than %d levels", maxMailParts, maxMailDepth)
	}
	mediaType, params, err := mime.ParseMediaType(header("Content-Type"))
	if err != nil && mediaType == "" {
		mediaType = "text/plain"
	}
	disposition, about, _ := mime.ParseMediaType(header("Content-Disposition"))
	name := about["filename"]
	if name == "" {
		name = params["name"]
	}
	switch {
	case strings.HasPrefix(mediaType, "multipart/") && params["boundary"] != "":
		return e.walkParts(mediaType, multipart.NewReader(body, params["boundary"]), depth)
	case disposition == "attachment" || mediaType != "text/plain" && mediaType != "text/html":
		e.attach(name, mediaType)
		return nil
	}
	data, err := io.ReadAll(transfer(header("Content-Transfer-Encoding"), body))
	if err != nil && len(data) == 0 {
		return nil //nolint:nilerr // a part whose encoding is broken from the start has nothing to read
	}
	text, problem := decodePart(data, params["charset"])
	if problem != nil {
		return problem
	}
	if mediaType == "text/plain" {
		e.plain.WriteString(text + "\n")
		return nil
	}
	if _, text, problem = extractHTML(text); problem == nil {
		e.page.WriteString(text + "\n")
	}
	return problem
}

func (e *letter) walkParts(mediaType string, r *multipart.Reader, depth int) *Error {
	for {
		part, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			if e.plain.Len()+e.page.Len() > 0 { // cut off behind a text
				return nil
			}
			return damaged("its parts can't be told apart")
		}
		if mediaType == "multipart/digest" && part.Header.Get("Content-Type") == "" {
			part.Header.Set("Content-Type", "message/rfc822")
		}
		if problem := e.walk(part.Header.Get, part, depth+1); problem != nil {
			return problem
		}
	}
}

func (e *letter) attach(name, mediaType string) {
	words := mime.WordDecoder{}
	if decoded, err := words.DecodeHeader(name); err == nil {
		name = decoded
	}
	if name = strings.Join(strings.Fields(strings.ToValidUTF8(name, "\uFFFD")), " "); name == "" {
		name = "unnamed"
	}
	e.attached = append(e.attached, oneLine(name)+" ("+mediaType+")")
}

func transfer(encoding string, r io.Reader) io.Reader {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, r)
	case "quoted-printable":
		return quotedprintable.NewReader(r)
	}
	return r
}

// decodePart decodes a part of a mail. Its charset is what the sender's program says: it is believed unless the bytes are UTF-8.
func decodePart(data []byte, label string) (string, *Error) {
	if strings.HasPrefix(strings.ToLower(label), "iso-2022") {
		return convertFrom(label, data), nil
	}
	return decode(data, label)
}
