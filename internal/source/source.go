// Package source lists and reads what a batch is made of: objects of storages, pages of the web and rows of databases, as documents or variables.
//
// What a source may reach is the operator's to say: the prefixes of storages, the databases, and of the web what is public. A caller's spec has
// no credentials in it.
//
// A source is read from beginning to end each time, in the same order as long as nothing changed, and with bounded memory. What can't be read of
// it is an item with a reason; a source that can't be listed as a whole ends with an error.
package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"batchwright/internal/bucket"
	"batchwright/internal/egress"
)

// Spec says what a source is: URLs or a query. Its form as JSON is the contract's.
type Spec struct {
	URLs  []string `json:"urls,omitempty"`
	Query *Query   `json:"query,omitempty"`
}

// Query is a statement whose rows are the items.
type Query struct {
	Connection string `json:"connection"`
	SQL        string `json:"sql"`
	ID         string `json:"id"`                 // column
	Document   string `json:"document,omitempty"` // column, of text or bytes; without one, all columns but ID are variables
	Name       string `json:"name,omitempty"`     // column, of the document's name
}

// Item is a document, or the variables of a row.
type Item struct {
	ID          string // the URL, or what the row's column says
	Name        string
	ContentType string
	Data        []byte          // of the document
	Variables   json.RawMessage // or a JSON object; nil for a document
	Err         error           // or why it can't be read, an *Error
}

// Error is why a source or an item can't be read. Message is safe to show.
type Error struct {
	Field   string // of a batch's options, such as source.urls[1]; empty when it is about an item
	Message string
	Refused bool  // the same again won't help
	Err     error // for the log only
}

// Error describes it for the log.
func (e *Error) Error() string {
	text := "source: " + e.shown()
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) shown() string {
	if e.Field == "" {
		return e.Message
	}
	return e.Field + ": " + e.Message
}

func refuse(field, format string, a ...any) *Error {
	return &Error{Field: field, Message: fmt.Sprintf(format, a...), Refused: true}
}

// Database answers queries, and changes nothing. Errors are *[Error] without a field, and those of the context.
type Database interface {
	// Columns names the columns of a statement's rows without running it.
	Columns(ctx context.Context, sql string) ([]string, error)
	// Rows runs a statement. Begin is called with the names of the columns before the first row; its error ends it. Values are nil, a string, a
	// json.RawMessage for numbers, truth values and JSON, or a []byte; they are valid until the next row is asked for.
	Rows(ctx context.Context, sql string, begin func(columns []string) error) iter.Seq2[[]any, error]
}

// Options are what the operator allows. The zero value allows nothing.
type Options struct {
	Places    bucket.Places
	Databases map[string]Database // by name
	Web       bool                // http and https URLs
	Guard     egress.Guard        // of the web

	MaxDocument int64         // bytes of one document or row; default 32 MiB
	MaxItems    int           // of one source; default a million
	MaxBytes    int64         // of all its items; default 64 GiB
	WebTimeout  time.Duration // for one answer, with redirects; default 30 s
}

// Sources reads sources. It is safe for concurrent use.
type Sources struct {
	o   Options
	web *http.Client
}

// New returns Sources by what is allowed.
func New(o Options) *Sources {
	if o.MaxDocument == 0 {
		o.MaxDocument = 32 << 20
	}
	if o.MaxItems == 0 {
		o.MaxItems = 1_000_000
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 64 << 30
	}
	if o.WebTimeout == 0 {
		o.WebTimeout = 30 * time.Second
	}
	return &Sources{o: o, web: webClient(o.Guard)}
}

// Close closes idle connections.
func (s *Sources) Close() { s.web.CloseIdleConnections() }

const (
	maxURLs     = 1000
	maxURL      = 1000 // bytes
	maxPatterns = 100  // of the URLs: each object is compared with those before its own
	maxSQL      = 64 << 10
	maxColumn   = 63 // bytes, as Postgres has it
)

// Parse reads a spec and checks what can be known without asking anybody. Errors are *[Error].
func Parse(raw json.RawMessage) (Spec, error) {
	var s Spec
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&s); err != nil {
		return Spec{}, refuse("source", `is not of the form {"urls": [...]} or {"query": {...}}`)
	}
	if _, err := d.Token(); err != io.EOF || (len(s.URLs) > 0) == (s.Query != nil) {
		return Spec{}, refuse("source", "has either urls or a query")
	}
	if s.Query != nil {
		return s, s.Query.check()
	}
	if len(s.URLs) > maxURLs {
		return Spec{}, refuse("source.urls", "are more than %d: use a pattern, or a query", maxURLs)
	}
	for i, raw := range s.URLs {
		if u, err := url.Parse(raw); err != nil || !slices.Contains(schemes, u.Scheme) || len(raw) > maxURL || strings.ContainsRune(raw, 0) || !utf8.ValidString(raw) {
			return Spec{}, refuse(urlField(i), "must be a URL of at most %d bytes with one of the schemes %s", maxURL, strings.Join(schemes, ", "))
		}
	}
	return s, nil
}

var schemes = []string{"file", "s3", "gs", "azblob", "https", "http"}

func isWeb(raw string) bool {
	u, err := url.Parse(raw)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https")
}

func urlField(i int) string { return fmt.Sprintf("source.urls[%d]", i) }

var connectionName = regexp.MustCompile(`^[a-z][a-z0-9_]{0,39}$`)

// ConnectionName reports whether a database may have a name.
func ConnectionName(name string) bool { return connectionName.MatchString(name) }

func (q *Query) check() error {
	switch {
	case !ConnectionName(q.Connection):
		return refuse("source.query.connection", "must be the name of one of the server's databases: a lower-case letter, then letters, digits and underscores")
	case strings.TrimSpace(q.SQL) == "" || len(q.SQL) > maxSQL || strings.ContainsRune(q.SQL, 0):
		return refuse("source.query.sql", "must be a statement of at most %d bytes", maxSQL)
	case q.ID == "":
		return refuse("source.query.id", "is missing: it names the column of the custom_id")
	case q.Name != "" && q.Document == "":
		return refuse("source.query.name", "goes with document: it names the column of the document's name")
	}
	for field, column := range map[string]string{"id": q.ID, "document": q.Document, "name": q.Name} {
		if len(column) > maxColumn {
			return refuse("source.query."+field, "is longer than %d bytes, as no column's name is", maxColumn)
		}
	}
	return nil
}

// Check says what is wrong with a spec for a project, as far as that can be known without reading the source: what isn't allowed here, an
// unknown database, a statement that the database doesn't take, a column that it doesn't have. Documents says what the batch's kind takes. For a
// query without a document it returns the names of the variables. Errors are *[Error].
func (s *Sources) Check(ctx context.Context, project string, spec Spec, documents bool) (variables []string, err error) {
	if spec.Query != nil {
		return s.checkQuery(ctx, spec.Query, documents)
	}
	if !documents {
		return nil, refuse("source.urls", "are documents, and this kind takes variables: use a query")
	}
	places := s.o.Places.Of(project)
	patterns := 0
	for i, raw := range spec.URLs {
		if isWeb(raw) {
			if why := s.refusesWeb(raw); why != "" {
				return nil, refuse(urlField(i), "%s", why)
			}
			continue
		}
		_, key, err := places.Locate(raw)
		if err != nil {
			return nil, inField(urlField(i), err)
		}
		if bucket.IsPattern(key) {
			if patterns++; patterns > maxPatterns {
				return nil, refuse("source.urls", "have more than %d patterns", maxPatterns)
			}
		}
	}
	return nil, nil
}

// inField makes an error of another package one of this one.
func inField(field string, err error) error {
	if e, ok := errors.AsType[*bucket.Error](err); ok {
		return &Error{Field: field, Message: e.Message, Refused: e.Refused, Err: e}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		out := *e
		if out.Field == "" {
			out.Field = field
		}
		return &out
	}
	return err
}

// Items reads a source. An error is the last thing yielded: an *[Error], or the context's. Data and Variables are valid until the next item
// is asked for.
func (s *Sources) Items(ctx context.Context, project string, spec Spec, documents bool) iter.Seq2[Item, error] {
	items := s.rows(ctx, spec.Query)
	if spec.Query == nil {
		items = s.objects(ctx, project, spec.URLs)
	}
	return func(yield func(Item, error) bool) {
		if _, err := s.Check(ctx, project, spec, documents); err != nil {
			yield(Item{}, err)
			return
		}
		n, size := 0, int64(0)
		for item, err := range items {
			n, size = n+1, size+int64(len(item.Data)+len(item.Variables))
			switch {
			case err != nil:
			case n > s.o.MaxItems:
				err = refuse("source", "has more than %d items, as many as this server takes of one", s.o.MaxItems)
			case size > s.o.MaxBytes:
				err = refuse("source", "has more than %d bytes, as many as this server takes of one", s.o.MaxBytes)
			}
			if !yield(item, err) || err != nil {
				return
			}
		}
	}
}
