// Package bucket reads and writes objects behind URLs, in the places that an operator allows and in no others.
//
// A place is a URL prefix: a folder (file:///srv/exports/) or the beginning of the keys of a bucket (s3://reports/nightly/, gs://, azblob://).
// Whatever a driver is to be told, a region or an endpoint, is in the operator's prefix (s3://reports/?region=eu-central-1); a caller's URL has
// no query, user or password, so nobody can send the server's credentials to another host.
//
// An object that is written appears when it is complete, or not at all: a file under another name that is then renamed, an upload that the
// storage completes.
package bucket

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Error is why an object can't be reached. Message is safe to show and begins with a verb: "is ...", "can't be ...".
type Error struct {
	Message string
	Refused bool  // by its form, or by what is allowed here: the same again won't help
	Err     error // for the log only
}

// Error describes it for the log, without what follows a ? in a URL, where some storages have signatures.
func (e *Error) Error() string {
	if e.Err == nil {
		return "bucket: " + e.Message
	}
	return "bucket: " + e.Message + ": " + unsigned(e.Err.Error())
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

var query = regexp.MustCompile(`\?[^\s"']*`)

func unsigned(text string) string { return query.ReplaceAllString(text, "?…") }

func refuse(format string, a ...any) *Error {
	return &Error{Message: fmt.Sprintf(format, a...), Refused: true}
}

// Object is what is known of an object without reading it.
type Object struct {
	Key     string
	Size    int64 // bytes
	ModTime time.Time
	MD5     []byte // nil where the storage doesn't tell
}

// Version changes when the object's content does: it is made of the MD5, or else of time and size.
func (o Object) Version() string {
	if o.MD5 != nil {
		return hex.EncodeToString(o.MD5)
	}
	return fmt.Sprintf("%x-%x", o.ModTime.UnixNano(), o.Size)
}

// place is one allowed prefix.
type place struct {
	scheme, host string
	prefix       string // of paths: begins and ends with /
	query        string
	own          bool // of one project: its folder is made when it is missing
}

func (p place) String() string { return p.scheme + "://" + p.host + p.prefix }

// Places are the allowed prefixes. The zero value allows nothing.
type Places struct{ all []place }

var schemes = []string{"file", "s3", "gs", "azblob"}

// ParsePlaces reads prefixes with commas or blanks between. In each, {project} stands for the name of the caller's project.
func ParsePlaces(list string) (Places, error) {
	var p Places
	for text := range strings.FieldsFuncSeq(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' }) {
		u, err := url.Parse(text)
		switch {
		case err != nil || u.Opaque != "" || u.User != nil || u.Fragment != "":
			return Places{}, refuse("has an entry that is no URL prefix such as file:///srv/exports/ or s3://bucket/prefix/; credentials are not part of it")
		case !slices.Contains(schemes, u.Scheme):
			return Places{}, refuse("has an entry whose scheme is not one of %s", strings.Join(schemes, ", "))
		case (u.Scheme == "file") != (u.Host == ""):
			return Places{}, refuse("has an entry without a bucket, or a file with a host: want file:///folder/ or %s://bucket/", "s3")
		case u.Scheme == "file" && u.RawQuery != "":
			return Places{}, refuse("has a file with a query, which means nothing")
		}
		at := place{scheme: u.Scheme, host: u.Host, prefix: path.Clean("/" + strings.TrimSuffix(u.Path, "*")), query: u.RawQuery}
		if at.prefix != "/" {
			at.prefix += "/"
		}
		p.all = append(p.all, at)
	}
	return p, nil
}

// Empty reports whether nothing is allowed.
func (p Places) Empty() bool { return len(p.all) == 0 }

// String lists the prefixes for people, without their queries.
func (p Places) String() string {
	var out []string
	for _, at := range p.all {
		out = append(out, at.String())
	}
	return strings.Join(out, ", ")
}

// Of returns the places of one project.
func (p Places) Of(project string) Places {
	out := Places{slices.Clone(p.all)}
	for i := range out.all {
		at := &out.all[i]
		at.own = strings.Contains(at.prefix, "{project}")
		at.prefix = strings.ReplaceAll(at.prefix, "{project}", Segment(project))
	}
	return out
}

// Segment makes one part of a key out of a name: letters, digits, dots, dashes and underscores stay, and it is none of those that mean a folder.
func Segment(name string) string {
	name = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-', r == '_':
			return r
		}
		return '-'
	}, name)
	name = strings.TrimLeft(name, ".")
	return cmp.Or(name[:min(len(name), 100)], "-")
}

const maxURL = 1000 // bytes

// find checks a URL and says in which place it lies and which path it means. Errors are *[Error].
func (p Places) find(raw string) (place, string, error) {
	u, err := url.Parse(raw)
	switch {
	case len(raw) > maxURL:
		return place{}, "", refuse("is longer than %d bytes", maxURL)
	case err != nil || u.Opaque != "" || !slices.Contains(schemes, u.Scheme):
		return place{}, "", refuse("is no URL of the schemes %s", strings.Join(schemes, ", "))
	case u.User != nil:
		return place{}, "", refuse("has a user or password: the server has its own credentials")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return place{}, "", refuse("has a query or fragment: what is behind ? or # is the operator's to say")
	case strings.ContainsFunc(u.Path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }):
		return place{}, "", refuse("has a control character or a backslash")
	}
	for s := range strings.SplitSeq(strings.Trim(u.Path, "/"), "/") {
		if s == "" && strings.Trim(u.Path, "/") != "" || s == "." || s == ".." {
			return place{}, "", refuse("has an empty part, . or .. in its path")
		}
	}
	var best *place
	for i, at := range p.all {
		if at.scheme == u.Scheme && at.host == u.Host && strings.HasPrefix(u.Path, at.prefix) && (best == nil || len(at.prefix) > len(best.prefix)) {
			best = &p.all[i]
		}
	}
	if best == nil {
		if p.Empty() {
			return place{}, "", refuse("is not allowed: this server has no places for it")
		}
		return place{}, "", refuse("is not below one of the places that this server allows: %s", p)
	}
	return *best, u.Path, nil
}

// driver is one kind of storage.
type driver interface {
	list(ctx context.Context, folder, prefix string) iter.Seq2[Object, error] // whatever begins with prefix, all of it in folder
	read(ctx context.Context, key string) (io.ReadCloser, Object, error)
	create(ctx context.Context, key string, o WriteOptions) (sink, error)
	probe(ctx context.Context, folder string) error
	explain(err error, verb string) error // makes an *Error of it
	close() error
}

type sink interface {
	io.Writer
	commit() error
	abort()
}

// Bucket is a place that is open. Errors of its methods are *[Error], but for those of the context.
type Bucket struct{ d driver }

// Open opens the place of a URL. Key is what the URL means there: an object, or with *, ? or [ a pattern for List.
func (p Places) Open(ctx context.Context, raw string) (b *Bucket, key string, err error) {
	at, full, err := p.find(raw)
	if err != nil {
		return nil, "", err
	}
	if at.scheme == "file" {
		d, err := openDir(filepath.FromSlash(at.prefix), at.own)
		if err != nil {
			return nil, "", err
		}
		return &Bucket{d}, strings.TrimPrefix(full, at.prefix), nil
	}
	d, err := openCloud(ctx, at)
	if err != nil {
		return nil, "", err
	}
	return &Bucket{d}, strings.TrimPrefix(full, "/"), nil
}

// Close closes it; readers and writers must have ended before.
func (b *Bucket) Close() error { return b.d.close() }

// List yields the objects that match a pattern: * and ? stand for what is not a /, [a-z] for one character, a part ** for any number of folders; a
// pattern that is empty or ends with / means everything below. Symbolic links are not followed out of the place, and not listed.
func (b *Bucket) List(ctx context.Context, pattern string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		if pattern == "" || strings.HasSuffix(pattern, "/") {
			pattern += "**"
		}
		if _, err := path.Match(pattern, ""); err != nil {
			yield(Object{}, refuse("is no pattern: a [ lacks its ]"))
			return
		}
		prefix := pattern
		if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
			prefix = pattern[:i]
		}
		parts := strings.Split(pattern, "/")
		for o, err := range b.d.list(ctx, prefix[:strings.LastIndexByte(prefix, '/')+1], prefix) {
			if err != nil {
				yield(Object{}, b.fail(ctx, err, "can't be listed"))
				return
			}
			if matches(parts, strings.Split(o.Key, "/")) && !leftover(o.Key) && !yield(o, nil) {
				return
			}
		}
	}
}

// matches compares a pattern with a key, part by part. When it fails behind a **, that takes one part more: only the last one needs to.
func matches(pattern, key []string) bool {
	p, k, star, taken := 0, 0, -1, 0
	for k < len(key) {
		if p < len(pattern) && pattern[p] == "**" {
			star, taken = p, k
			p++
			continue
		}
		if p < len(pattern) {
			if ok, err := path.Match(pattern[p], key[k]); ok && err == nil {
				p, k = p+1, k+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		taken++
		p, k = star+1, taken
	}
	for p < len(pattern) && pattern[p] == "**" {
		p++
	}
	return p == len(pattern)
}

// Read opens an object. A reader that has given limit bytes and isn't at the end fails; an object that is known to be longer isn't opened.
func (b *Bucket) Read(ctx context.Context, key string, limit int64) (io.ReadCloser, Object, error) {
	r, o, err := b.d.read(ctx, key)
	if err != nil {
		return nil, Object{}, b.fail(ctx, err, "can't be read")
	}
	if o.Size > limit {
		_ = r.Close()
		return nil, o, tooLong(limit)
	}
	return &bounded{r, limit, limit}, o, nil
}

func tooLong(limit int64) *Error { return refuse("is longer than %d bytes", limit) }

type bounded struct {
	io.ReadCloser
	left, limit int64
}

func (r *bounded) Read(p []byte) (int, error) {
	if r.left < 0 {
		return 0, tooLong(r.limit)
	}
	n, err := r.ReadCloser.Read(p[:min(int64(len(p)), r.left+1)])
	if r.left -= int64(n); r.left < 0 {
		return n - 1, tooLong(r.limit)
	}
	return n, err
}

// WriteOptions say how an object is written. The zero value will do for what is written once.
type WriteOptions struct {
	ContentType string // default: the storage's

	// Work and Attempt say which attempt, from 1, at which piece of work writes the object. What earlier attempts left behind is removed where the
	// storage has names for it (files), and one of them that still runs can't complete its object any more.
	Work    string
	Attempt int
}

// Writer writes an object. Until Commit nothing is to be seen of it; Abort, or a context that ends before, leaves what was there.
type Writer struct {
	b     *Bucket
	ended func() error // why the context did, or nil
	sink  sink
}

// Create begins an object. The folders that it lies in are made.
func (b *Bucket) Create(ctx context.Context, key string, o WriteOptions) (*Writer, error) {
	if key == "" || strings.HasSuffix(key, "/") {
		return nil, refuse("names a folder: name a file in it")
	}
	s, err := b.d.create(ctx, key, o)
	if err != nil {
		return nil, b.fail(ctx, err, "can't be written")
	}
	return &Writer{b, func() error { return context.Cause(ctx) }, s}, nil
}

// Write writes part of the object.
func (w *Writer) Write(p []byte) (int, error) {
	if err := w.ended(); err != nil { // of a file nobody else looks at it
		return 0, err
	}
	n, err := w.sink.Write(p)
	return n, w.fail(err)
}

// Commit makes the object appear, whole and durable. After an error it is there whole, or not at all.
func (w *Writer) Commit() error {
	if err := w.ended(); err != nil {
		return err
	}
	return w.fail(w.sink.commit())
}

func (w *Writer) fail(err error) error {
	if err == nil {
		return nil
	}
	return cmp.Or(w.ended(), w.b.explain(err, "can't be written"))
}

// Abort drops the object. After Commit it does nothing.
func (w *Writer) Abort() { w.sink.abort() }

// Probe writes an object beside the one that key means and removes it, so it fails where that one could not be written. It does so above the
// last folders, as many as unmade says: those that needn't be there, because Create will make them.
func (b *Bucket) Probe(ctx context.Context, key string, unmade int) error {
	if key == "" || strings.HasSuffix(key, "/") {
		return refuse("names a folder: name a file in it")
	}
	folders := strings.SplitAfter(key, "/")
	return b.fail(ctx, b.d.probe(ctx, strings.Join(folders[:max(len(folders)-1-unmade, 0)], "")), "can't be written")
}

// fail says what an error means: the context's end comes first.
func (b *Bucket) fail(ctx context.Context, err error, verb string) error {
	if err == nil {
		return nil
	}
	return cmp.Or(context.Cause(ctx), b.explain(err, verb))
}

func (b *Bucket) explain(err error, verb string) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	return b.d.explain(err, verb)
}

const (
	probeName  = ".batchwright-probe" // one name, so that a storage that forbids removing has one of them
	partSuffix = ".batchwright-part"
)

// leftover tells what this package writes beside objects.
func leftover(key string) bool {
	name := path.Base(key)
	return name == probeName || strings.HasPrefix(name, ".") && strings.HasSuffix(name, partSuffix)
}
