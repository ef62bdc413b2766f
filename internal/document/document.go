// Package document turns the bytes of a document into text, and text into chunks.
//
// [Extract] finds out the format and returns clean text: UTF-8 in normal form C, lines that end in \n, no control
// characters. [Split] cuts a text into chunks that fit a model, and [Group] puts consecutive texts together for the
// next level of a summary tree; [Sections] finds the headings. All place their boundaries by content, so that an edit moves few of them and the
// chunks that it doesn't touch keep their bytes, and with them their keys.
//
// Everything here is a pure function of its arguments. A change that moves a boundary or a character makes every
// document of every user new, and is paid for again: change nothing here without need, and raise [Version] with a change
// of what Extract returns.
//
// Documents come from strangers, and most formats are made for machines. A reader here bounds what it inflates, how deep
// things nest and how much text comes out, but not its time and its memory: the formats that [Isolated] names are read
// in processes of their own (package extract), so that what a parser does at its worst costs one document.
//
// 2026-12-01, boundaries: a text that is too long is cut at its best boundary, the kind of boundary first and a hash of the 64
// bytes after it second, and its parts likewise. A changed sentence then changes 1.05 to 1.25 chunks on average and three at
// most, but four in one edit of 1,500. Chunks are 0.6 of the largest size on average. Not taken: the best boundary in a
// window behind the last cut (as until now: fuller chunks, but the change runs on, up to nine chunks); putting parts together
// from the weakest boundary up (fuller as well, and four or more changed chunks in one edit of 300); a cut wherever a hash
// meets a threshold, which ignores headings and leaves chunks of any size; cuts at fixed sizes, where an edit changes
// everything after it.
//
// 2026-12-01, sentences: UAX 29 by uax29, which knows the full stops of Chinese, Japanese, Khmer, Burmese and the Indic scripts, and
// decimal points. Added: abbreviations, after which it would end sentences. Thai and Lao have no mark for the end of a
// sentence: their long paragraphs are cut at the spaces that separate phrases.
//
// 2026-11-21, HTML: links lose their addresses and images become their alternative text. Addresses cost tokens, are
// seldom content, and often carry what changes with each fetch. Who needs them submits markdown.
//
// 2026-12-01, Office files: read by archive/zip and encoding/xml as streams, in 100 to 250 lines a format. Not taken:
// excelize, which is for writing as well and holds a sheet in memory; the libraries for DOCX and PPTX with a permissive
// licence give words without headings, lists and tables, and bound nothing.
//
// 2026-12-01, encodings: the bytes decide, then what an HTML page says of itself, then statistics. The charset of a
// Content-Type is not looked at: browsers and curl send none or a wrong one with files, and a text depends on the
// document's bytes and format alone, so that it can be kept by them.
package document

import (
	"bytes"
	"cmp"
	"fmt"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxBytes bounds a document, before and after extraction.
const MaxBytes = 64 << 20

// Version is that of the texts: raise it when what [Read] returns changes for documents that it could read.
const Version = 1

// Document is the text of a document.
type Document struct {
	Format    string // its name, as [Detect] returns it
	Extractor string // what made the text: Format, or the name and version of another program
	Title     string // as the document names itself, on one line; empty if it doesn't
	Text      string // markdown, unless Format is "text" or "pdf"
	Figures
}

// Figures say how much there is of a document.
type Figures struct {
	Pages      int     // of a PDF, slides of a presentation, sheets of a workbook; 0 for what has none
	Characters int     // of the text
	Letters    float64 // the share of letters in them, white space aside
}

// Code is the class of an [Error].
type Code string

// What can be wrong with a document.
const (
	CodeEmpty       Code = "empty"        // no bytes, or only white space
	CodeNoText      Code = "no_text"      // almost no letters: scanned, garbled, or pictures
	CodeInvalidUTF8 Code = "invalid_utf8" // the text isn't valid in the encoding that its byte order mark names
	CodeUnsupported Code = "unsupported"  // a format that isn't read here
	CodeTooLarge    Code = "too_large"    // over MaxBytes, or more pages, cells or inflated bytes than are read
	CodeTooComplex  Code = "too_complex"  // nested too deep
	CodeEncrypted   Code = "encrypted"    // needs a password
	CodeDamaged     Code = "damaged"      // not as its format has to be
	CodeTimeout     Code = "timeout"      // not read within the time that a document may take
	CodeMemory      Code = "memory"       // not read within the memory that a document may take
	CodeCrashed     Code = "crashed"      // its reader broke down
)

// Error says why a document has no text. It quotes none of it.
type Error struct {
	Code    Code
	Message string
	Figures // of what was found
}

func (e *Error) Error() string { return e.Message }

func errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// format is one kind of document.
type format struct {
	name       string
	mediaTypes []string // without parameters
	extensions []string // with the dot, lower case
	isolated   bool     // read in a process of its own
	// sniff reports whether the content can be nothing else. Head is the beginning of the document; when that is text, as
	// UTF-8 without byte order mark. A nil sniff never does.
	sniff func(head, data []byte) bool
	// guess reports whether a text that neither content nor name nor type tells anything about is probably of this format.
	guess func(head []byte) bool
	// extract sets what is known of Title, Text, Pages and Extractor.
	extract func(data []byte, o Options) (Document, *Error)
}

// Options replace readers by better ones that aren't part of this package.
type Options struct {
	PDF func(data []byte) (PDF, *Error) // nil for the one in Go
}

// formats are in order of their names.
var formats []format

func register(f format) {
	at, taken := slices.BinarySearchFunc(formats, f.name, func(f format, name string) int { return cmp.Compare(f.name, name) })
	if taken {
		panic("document: format " + f.name + " is registered twice")
	}
	formats = slices.Insert(formats, at, f)
}

// Extract returns the text of a document: [Read] of what [Detect] finds.
func Extract(name, contentType string, data []byte) (Document, error) {
	format, err := Detect(name, contentType, data)
	if err != nil {
		return Document{}, err
	}
	return Read(format, data, Options{})
}

// Detect returns the format of a document, without reading it. The content says what it is; where it doesn't, the file
// name's extension and the declared content type do; any other text is plain text. name and contentType may be empty.
//
// Every error is an [*Error]: the document is empty, too large or of a format that isn't read here.
func Detect(name, contentType string, data []byte) (string, error) {
	if len(data) > MaxBytes {
		return "", errorf(CodeTooLarge, "the document has %d bytes; at most %d are read", len(data), MaxBytes)
	}
	if len(data) == 0 {
		return "", errorf(CodeEmpty, "the document is empty: 0 bytes")
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return "", errorf(CodeEmpty, "the document has no text: %d bytes of white space", len(data))
	}
	f, err := detect(name, contentType, data)
	if err != nil {
		return "", err
	}
	return f.name, nil
}

// Isolated reports whether documents of a format are to be read in a process of their own.
func Isolated(format string) bool {
	f := byName(format)
	return f != nil && f.isolated
}

// Read returns the text of a document in a format that [Detect] has found.
//
// The text is UTF-8 in normal form C. Lines end in \n. Control characters other than newline and tab are dropped, form
// feeds are newlines, ligatures are their letters. Blank lines before the text and white space after it are dropped.
//
// Every error is an [*Error].
func Read(format string, data []byte, o Options) (Document, error) {
	f := byName(format)
	if f == nil {
		return Document{}, errorf(CodeUnsupported, "the format %.40q isn't known to this version; it knows %s", format, formatNames())
	}
	doc, err := f.extract(data, o)
	if err != nil {
		return Document{}, err
	}
	text, err := clean(doc.Text)
	if err != nil {
		return Document{}, err
	}
	title, err := clean(doc.Title)
	if err != nil {
		title = ""
	}
	doc.Title, doc.Text = oneLine(title), trim(text)
	doc.Format = f.name
	doc.Extractor = cmp.Or(doc.Extractor, f.name)
	if len(doc.Text) > MaxBytes {
		return Document{}, errorf(CodeTooLarge, "the text of the document has %d bytes; at most %d are read", len(doc.Text), MaxBytes)
	}
	if err := enough(&doc, len(data)); err != nil {
		return Document{}, err
	}
	return doc, nil
}

func detect(name, contentType string, data []byte) (*format, *Error) {
	head := sniffable(data)
	for i := range formats {
		if f := &formats[i]; f.sniff != nil && f.sniff(head, data) {
			return f, nil
		}
	}
	if bytes.HasPrefix(data, compoundFile) {
		return nil, compound(data)
	}
	if looksLike := http.DetectContentType(head); !strings.HasPrefix(looksLike, "text/") && isBinary(head) {
		return nil, unsupported(looksLike, data)
	}
	extension := strings.ToLower(path.Ext(name))
	for i := range formats {
		if slices.Contains(formats[i].extensions, extension) && !formats[i].binary() {
			return &formats[i], nil
		}
	}
	mediaType, _, _ := mime.ParseMediaType(contentType)
	for i := range formats {
		if slices.Contains(formats[i].mediaTypes, mediaType) && !formats[i].binary() {
			return &formats[i], nil
		}
	}
	for i := range formats {
		if formats[i].guess != nil && formats[i].guess(head) {
			return &formats[i], nil
		}
	}
	return byName("text"), nil
}

// binary reports whether a document of the format has content that tells it: then neither name nor type can make it one.
func (f *format) binary() bool { return f.sniff != nil && f.name != "html" && f.name != "eml" }

// isBinary reports whether head isn't text. A signature alone isn't enough: a text may begin with BM, as a bitmap does.
// Bytes that aren't UTF-8 may still be text in an older encoding: those have no control characters.
func isBinary(head []byte) bool {
	if bytes.HasPrefix(head, []byte("%!PS-")) {
		return true
	}
	valid, controls := true, 0
	for rest := head; len(rest) > 0; {
		r, size := utf8.DecodeRune(rest)
		if r == utf8.RuneError && size == 1 && utf8.FullRune(rest) {
			valid = false
		}
		if r < ' ' && !strings.ContainsRune("\t\n\v\f\r\x1b\x1a", r) {
			controls++
		}
		rest = rest[size:]
	}
	return !valid && controls > len(head)/256 && bareOrder(head) == nil
}

func byName(name string) *format {
	i := slices.IndexFunc(formats, func(f format) bool { return f.name == name })
	if i < 0 {
		return nil
	}
	return &formats[i]
}

func formatNames() string {
	names := make([]string, len(formats))
	for i, f := range formats {
		names[i] = f.name
	}
	return strings.Join(names, ", ")
}

// compoundFile is how files of Word, Excel and PowerPoint before 2007 begin, and newer ones with a password.
var compoundFile = []byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")

func compound(data []byte) *Error {
	if bytes.Contains(data, []byte("E\x00n\x00c\x00r\x00y\x00p\x00t\x00e\x00d\x00P\x00a\x00c\x00k\x00a\x00g\x00e\x00")) {
		return errorf(CodeEncrypted, "the document needs a password: save it without one")
	}
	return errorf(CodeUnsupported, "the document looks like one of Word, Excel or PowerPoint before 2007: save it as docx, xlsx or pptx")
}

func unsupported(looksLike string, data []byte) *Error {
	mediaType, _, _ := strings.Cut(looksLike, ";")
	switch {
	case mediaType == "application/zip" && entries(data, func([]byte) bool { return false }) == 0:
		return damaged("it begins as a zip archive and has no end; was it cut off?")
	case mediaType == "application/octet-stream":
		mediaType = "binary data"
	}
	return errorf(CodeUnsupported, "the document looks like %s; the formats that can be read are %s", mediaType, formatNames())
}

// trim drops blank lines at the beginning and white space at the end.
func trim(text string) string {
	text = strings.TrimRightFunc(text, unicode.IsSpace)
	for {
		line, rest, more := strings.Cut(text, "\n")
		if !more || strings.TrimSpace(line) != "" {
			return text
		}
		text = rest
	}
}
