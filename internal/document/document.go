// Package document turns the bytes of a document into text, and text into chunks.
//
// [Extract] finds out the format and returns clean text: UTF-8 in normal form C, lines that end in \n, no control
// characters. [Split] cuts a text into chunks that fit a model, and [Group] puts consecutive texts together for the
// next level of a summary tree; [Sections] finds the headings. All place their boundaries by content, so that an edit moves few of them and the
// chunks that it doesn't touch keep their bytes, and with them their keys.
//
// Everything here is a pure function of its arguments. A change that moves a boundary or a character makes every
// document of every user new, and is paid for again: change nothing here without need.
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

// minLetters is how many letters a text needs to be worth a call. An ideograph or a syllable counts as three.
const minLetters = 20

// Document is the text of a document.
type Document struct {
	Format string // "text", "markdown" or "html"
	Title  string // as the document names itself, on one line; empty if it doesn't
	Text   string // markdown, unless Format is "text"
}

// Code is the class of an [Error].
type Code string

// What can be wrong with a document.
const (
	CodeEmpty       Code = "empty"        // no bytes, or only white space
	CodeNoText      Code = "no_text"      // almost no letters
	CodeInvalidUTF8 Code = "invalid_utf8" // the text isn't valid in its encoding
	CodeUnsupported Code = "unsupported"  // a format that isn't read here
	CodeTooLarge    Code = "too_large"    // over MaxBytes
	CodeTooComplex  Code = "too_complex"  // nested too deep
)

// Error says why a document has no text. It quotes none of it.
type Error struct {
	Code    Code
	Message string
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
	// sniff reports whether the content can be nothing else. It gets the first bytes of the document; when they are
	// text, as UTF-8 without byte order mark. A nil sniff never does.
	sniff   func(head []byte) bool
	extract func(data []byte) (title, text string, err *Error)
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

// Extract returns the text of a document. The content says what it is; where it doesn't, the file name's extension
// and the declared content type do; any other text is plain text. name and contentType may be empty.
//
// The text is UTF-8 in normal form C. Input is UTF-8, or UTF-16 if it begins with a byte order mark. Lines end in \n.
// Control characters other than newline and tab are dropped, form feeds are newlines. Blank lines before the text and
// white space after it are dropped.
//
// Every error is an [*Error].
func Extract(name, contentType string, data []byte) (Document, error) {
	if len(data) > MaxBytes {
		return Document{}, errorf(CodeTooLarge, "the document has %d bytes; at most %d are read", len(data), MaxBytes)
	}
	if len(data) == 0 {
		return Document{}, errorf(CodeEmpty, "the document is empty: 0 bytes")
	}
	f, err := detect(name, contentType, data)
	if err != nil {
		return Document{}, err
	}
	title, text, err := f.extract(data)
	if err != nil {
		return Document{}, err
	}
	text = trim(text)
	if len(text) > MaxBytes {
		return Document{}, errorf(CodeTooLarge, "the text of the document has %d bytes; at most %d are read", len(text), MaxBytes)
	}
	if err := enough(text, len(data)); err != nil {
		return Document{}, err
	}
	return Document{Format: f.name, Title: title, Text: text}, nil
}

func detect(name, contentType string, data []byte) (format, *Error) {
	head := sniffable(data)
	for _, f := range formats {
		if f.sniff != nil && f.sniff(head) {
			return f, nil
		}
	}
	if looksLike := http.DetectContentType(head); !strings.HasPrefix(looksLike, "text/") && isBinary(head) {
		return format{}, unsupported(looksLike)
	}
	extension := strings.ToLower(path.Ext(name))
	for _, f := range formats {
		if slices.Contains(f.extensions, extension) {
			return f, nil
		}
	}
	mediaType, _, _ := mime.ParseMediaType(contentType)
	for _, f := range formats {
		if slices.Contains(f.mediaTypes, mediaType) {
			return f, nil
		}
	}
	return byName("text"), nil
}

// isBinary reports whether head isn't text. A signature alone isn't enough: a text may begin with BM, as a bitmap does.
func isBinary(head []byte) bool {
	if bytes.HasPrefix(head, []byte("%PDF-")) || bytes.HasPrefix(head, []byte("%!PS-")) {
		return true
	}
	for len(head) > 0 {
		r, size := utf8.DecodeRune(head)
		if r == utf8.RuneError && size == 1 && utf8.FullRune(head) {
			return true
		}
		head = head[size:]
	}
	return false
}

func byName(name string) format {
	return formats[slices.IndexFunc(formats, func(f format) bool { return f.name == name })]
}

func unsupported(looksLike string) *Error {
	mediaType, _, _ := strings.Cut(looksLike, ";")
	if mediaType == "application/octet-stream" {
		mediaType = "binary data"
	}
	names := make([]string, len(formats))
	for i, f := range formats {
		names[i] = f.name
	}
	return errorf(CodeUnsupported, "the document looks like %s; the formats that can be read are %s", mediaType, strings.Join(names, ", "))
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

// enough refuses a text without, or almost without, letters.
func enough(text string, size int) *Error {
	letters, weight := 0, 0
	for _, r := range text {
		if !unicode.IsLetter(r) {
			continue
		}
		letters++
		weight++
		if unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Hangul) {
			weight += 2
		}
		if weight >= minLetters {
			return nil
		}
	}
	characters := utf8.RuneCountInString(text)
	if characters == 0 {
		return errorf(CodeEmpty, "the document has no text: %d bytes, 0 characters", size)
	}
	return errorf(CodeNoText, "the document has almost no text: %d bytes, %d characters, %d letters; at least %d letters are needed",
		size, characters, letters, minLetters)
}
