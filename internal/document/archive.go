package document

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/net/html/charset"
)

// Bounds of a document that is a zip archive.
const (
	maxEntries  = 20_000
	maxInflated = 256 << 20 // bytes of all entries that are read
	maxRatio    = 250       // to which one entry may unpack, once it has unpacked to ratioFrom bytes; sheets reach 100
	ratioFrom   = 32 << 20
	maxXMLDepth = 256
	maxXMLToken = 16 << 20 // bytes of one text or tag
)

// archive is a zip file that can't make more of itself than it may.
type archive struct {
	files  map[string]*zip.File // by lower-case path without leading slash, as Office takes them
	budget int64                // bytes that may still be inflated
}

func openArchive(data []byte) (*archive, *Error) {
	if n := entries(data, func([]byte) bool { return true }); n > maxEntries {
		return nil, errorf(CodeTooLarge, "the document has more than %d parts", maxEntries)
	}
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, damaged("its zip archive can't be read")
	}
	a := &archive{files: make(map[string]*zip.File, len(z.File)), budget: maxInflated}
	for _, f := range z.File {
		a.files[entryName(f.Name)] = f
	}
	return a, nil
}

func damaged(format string, args ...any) *Error {
	return errorf(CodeDamaged, "the document is damaged: %s", fmt.Sprintf(format, args...))
}

func entryName(name string) string {
	return strings.ToLower(strings.TrimPrefix(path.Clean("/"+strings.ReplaceAll(name, `\`, "/")), "/"))
}

// open returns a part; nil when there is none.
func (a *archive) open(name string) (io.Reader, *Error) {
	f := a.files[entryName(name)]
	if f == nil {
		return nil, nil
	}
	if f.Flags&1 != 0 {
		return nil, errorf(CodeEncrypted, "the document needs a password: save it without one")
	}
	r, err := f.Open()
	if err != nil {
		return nil, damaged("a part can't be unpacked")
	}
	return &inflated{a: a, r: r, most: max(ratioFrom, int64(min(f.CompressedSize64, maxInflated))*maxRatio)}, nil
}

// read returns a part as a whole; nil when there is none.
func (a *archive) read(name string) ([]byte, *Error) {
	r, err := a.open(name)
	if r == nil {
		return nil, err
	}
	data, rerr := io.ReadAll(r)
	if rerr != nil {
		return nil, readProblem(rerr)
	}
	return data, nil
}

// inflated counts what comes out of an archive.
type inflated struct {
	a    *archive
	r    io.Reader
	n    int64
	most int64 // of this entry
}

func (i *inflated) Read(p []byte) (int, error) {
	n, err := i.r.Read(p)
	i.n += int64(n)
	if i.a.budget -= int64(n); i.a.budget < 0 || i.n > i.most {
		return 0, errorf(CodeTooLarge, "the document unpacks to more than %d MiB, or a part of it to %d times its size", maxInflated>>20, maxRatio)
	}
	return n, err
}

// readProblem says what an error of reading a part means.
func readProblem(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if _, ok := errors.AsType[*xml.SyntaxError](err); ok {
		return damaged("the XML of a part is not well-formed")
	}
	return damaged("a part can't be unpacked")
}

// entries calls see with the names in a zip archive's directory until it returns false, and returns how many it has seen. It
// allocates nothing and trusts nothing: it tells formats apart outside the sandbox.
func entries(data []byte, see func(name []byte) bool) int {
	const endSize, entrySize = 22, 46
	at := bytes.LastIndex(data[max(0, len(data)-endSize-1<<16):], []byte("PK\x05\x06"))
	if at < 0 {
		return 0
	}
	at += max(0, len(data)-endSize-1<<16)
	if len(data)-at < endSize {
		return 0
	}
	end := at
	at -= int(binary.LittleEndian.Uint32(data[at+12:])) // the directory ends where its end record begins
	if at < 0 || !bytes.HasPrefix(data[at:], []byte("PK\x01\x02")) {
		at = int(binary.LittleEndian.Uint32(data[end+16:]))
	}
	n := 0
	for at >= 0 && at+entrySize <= end && bytes.HasPrefix(data[at:], []byte("PK\x01\x02")) {
		name := at + entrySize
		size := int(binary.LittleEndian.Uint16(data[at+28:]))
		if name+size > end {
			break
		}
		if n++; !see(data[name : name+size]) {
			break
		}
		at = name + size + int(binary.LittleEndian.Uint16(data[at+30:])) + int(binary.LittleEndian.Uint16(data[at+32:]))
	}
	return n
}

// zipped returns a sniff for archives that have an entry in a folder, or of that name.
func zipped(prefix string) func(head, data []byte) bool {
	return func(head, data []byte) bool {
		if !bytes.HasPrefix(head, []byte("PK\x03\x04")) {
			return false
		}
		found := false
		entries(data, func(name []byte) bool {
			found = strings.HasPrefix(strings.ToLower(string(name[:min(len(name), len(prefix))])), prefix)
			return !found
		})
		return found
	}
}

// part reads the XML of one part of a document as a stream. Entities that a document declares are never expanded, and
// nothing is fetched: encoding/xml does neither.
type part struct {
	d     *xml.Decoder
	depth int
}

// part opens the XML of a part; nil when there is none.
func (a *archive) part(name string) (*part, *Error) {
	r, err := a.open(name)
	if r == nil {
		return nil, err
	}
	d := xml.NewDecoder(r)
	d.Strict = true
	d.CharsetReader = charset.NewReaderLabel
	return &part{d: d}, nil
}

// next returns the next start, end or text, nil at the end. It is valid until the one after it. Prefixes of names are not resolved.
func (p *part) next() (xml.Token, *Error) {
	for {
		before := p.d.InputOffset()
		token, err := p.d.RawToken()
		if errors.Is(err, io.EOF) {
			if p.depth > 0 {
				return nil, damaged("the XML of a part ends in the middle")
			}
			return nil, nil
		}
		if err != nil {
			return nil, readProblem(err)
		}
		if p.d.InputOffset()-before > maxXMLToken {
			return nil, errorf(CodeTooComplex, "the XML of the document has a text or a tag of more than %d MiB", maxXMLToken>>20)
		}
		switch token.(type) {
		case xml.StartElement:
			if p.depth++; p.depth > maxXMLDepth {
				return nil, errorf(CodeTooComplex, "the elements of the document nest deeper than %d levels", maxXMLDepth)
			}
		case xml.EndElement:
			p.depth--
		case xml.CharData:
		default:
			continue
		}
		return token, nil
	}
}

// each calls start and text with what is in a part. Either may be nil. A part that isn't there is empty.
func (a *archive) each(name string, start func(xml.StartElement), end func(string), text func([]byte)) *Error {
	p, err := a.part(name)
	if p == nil {
		return err
	}
	for {
		token, err := p.next()
		if token == nil || err != nil {
			return err
		}
		switch t := token.(type) {
		case xml.StartElement:
			start(t)
		case xml.EndElement:
			if end != nil {
				end(t.Name.Local)
			}
		case xml.CharData:
			if text != nil {
				text(t)
			}
		}
	}
}

// attr returns an attribute by its name without prefix.
func attr(e xml.StartElement, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}

// attrOf returns an attribute that has a prefix: r:id beside id.
func attrOf(e xml.StartElement, prefix, name string) string {
	for _, a := range e.Attr {
		if a.Name.Local == name && a.Name.Space == prefix {
			return a.Value
		}
	}
	return ""
}

// relation is where a part of an Office document points.
type relation struct{ kind, target string }

// relations returns what a part points at, by id. Targets outside the document are left out.
func (a *archive) relations(name string) (map[string]relation, *Error) {
	out := map[string]relation{}
	dir, base := path.Split(name)
	err := a.each(dir+"_rels/"+base+".rels", func(e xml.StartElement) {
		if e.Name.Local != "Relationship" || attr(e, "TargetMode") == "External" {
			return
		}
		target := attr(e, "Target")
		if !strings.HasPrefix(target, "/") {
			target = path.Join(dir, target)
		}
		out[attr(e, "Id")] = relation{path.Base(attr(e, "Type")), strings.TrimPrefix(target, "/")}
	}, nil, nil)
	return out, err
}

// mainPart returns where the root of an Office document is, and fallback when it doesn't say.
func (a *archive) mainPart(fallback string) (string, *Error) {
	rels, err := a.relations("")
	if err != nil {
		return "", err
	}
	for _, r := range rels {
		if r.kind == "officeDocument" && a.files[entryName(r.target)] != nil {
			return r.target, nil
		}
	}
	if a.files[entryName(fallback)] == nil {
		return "", damaged("it has no main part")
	}
	return fallback, nil
}

// coreTitle returns the title among an Office document's properties.
func (a *archive) coreTitle() (string, *Error) {
	var title strings.Builder
	inside := false
	err := a.each("docProps/core.xml", func(e xml.StartElement) { inside = e.Name.Local == "title" },
		func(string) { inside = false },
		func(text []byte) {
			if inside && title.Len() < 2*maxTitle {
				title.Write(text)
			}
		})
	return strings.TrimSpace(title.String()), err
}

// office is an archive of one of the office formats (ECMA-376, part 2).
type office struct {
	*archive
	main  string              // its main part
	rels  map[string]relation // of that, by id
	title string
}

// openOffice opens one. fallback is the main part where none is named.
func openOffice(data []byte, fallback string) (*office, *Error) {
	a, err := openArchive(data)
	if err != nil {
		return nil, err
	}
	o := &office{archive: a}
	if o.main, err = a.mainPart(fallback); err != nil {
		return nil, err
	}
	if o.rels, err = a.relations(o.main); err != nil {
		return nil, err
	}
	o.title, err = a.coreTitle()
	return o, err
}
