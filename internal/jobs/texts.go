package jobs

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/document"
	"batchwright/internal/gateway"
	"batchwright/internal/store"
)

// noText is the class of a job whose document has nothing to read: it is empty, scanned or garbled. It makes no call.
const noText gateway.Class = "no_text"

// documentRef is the stored input of a job with a document; the content is in documents.
type documentRef struct {
	Name        string `json:"name,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	Format      string `json:"format,omitempty"` // empty in jobs that were submitted before it was found out then
}

// textID names the text of a document.
type textID struct {
	sha    [sha256.Size]byte
	format string
}

// refOf reads what an input says of its document.
func refOf(in store.Input) (documentRef, textID, error) {
	var ref documentRef
	if err := json.Unmarshal(in.Input, &ref); err != nil {
		return ref, textID{}, fmt.Errorf("jobs: stored document reference: %w", err)
	}
	if len(in.DocumentSHA256) != sha256.Size {
		return ref, textID{}, errors.New("jobs: stored document reference: no document")
	}
	return ref, textID{[sha256.Size]byte(in.DocumentSHA256), ref.Format}, nil
}

// sumOf is what keys hang on: the text and its title, so that a file which was saved anew with the same words costs nothing.
func sumOf(doc document.Document) []byte {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%d %s", len(doc.Title), doc.Title)
	_, _ = h.Write([]byte(doc.Text))
	return h.Sum(nil)
}

// read returns the text of a document and its row. What is wrong with the document is in the row; an error is ours.
func (w *Worker) read(ctx context.Context, ref documentRef, id textID, body []byte) (document.Document, store.Text, error) {
	t := store.Text{TextInfo: store.TextInfo{TextID: store.TextID{DocumentSHA256: id.sha[:], Format: ref.Format, Version: document.Version}}}
	var err error
	var doc document.Document
	if t.Format == "" {
		t.Format, err = document.Detect(ref.Name, ref.ContentType, body)
	}
	if err == nil {
		if w.Extract != nil {
			doc, err = w.Extract(ctx, t.Format, body)
		} else {
			doc, err = document.Read(t.Format, body, document.Options{})
		}
	}
	t.Extractor = cmp.Or(doc.Extractor, t.Format)
	figures := doc.Figures
	if err != nil {
		e, ok := errors.AsType[*document.Error](err)
		if !ok {
			return doc, t, err
		}
		code := string(e.Code)
		t.ErrorCode, t.ErrorMessage, figures = &code, &e.Message, e.Figures
	} else {
		t.SHA256, t.Title = sumOf(doc), doc.Title
		if document.Isolated(t.Format) {
			t.Body = &doc.Text
		}
	}
	t.Pages, t.Characters, t.Letters = int32(figures.Pages), int32(figures.Characters), float32(figures.Letters) //nolint:gosec // bounded by MaxBytes
	return doc, t, nil
}

// unreadable is what becomes of a job whose document has no text.
func unreadable(code, message string) *failure {
	switch document.Code(code) {
	case document.CodeEmpty, document.CodeNoText:
		return failf(noText, "%s", message)
	}
	return failf(gateway.InvalidRequest, "%s: %s", code, message)
}

func purged() *failure {
	return failf(gateway.InvalidRequest, "the document was purged: submit it again")
}

// A text is what planning knows of a document's text: its hash and length, or why there is none.
type text struct {
	sum        []byte
	characters int32
	err        *failure
}

func textOf(t store.TextInfo) text {
	if t.ErrorCode != nil {
		return text{err: unreadable(*t.ErrorCode, *t.ErrorMessage)}
	}
	return text{sum: t.SHA256, characters: t.Characters}
}

// lookUpTexts returns what is stored of the texts of jobs' documents. A failure counts for batches that were there when it was found; a later batch
// has the document read again, perhaps by a better reader.
func (w *Worker) lookUpTexts(ctx context.Context, b *batch, ids []textID) (map[textID]text, error) {
	known := make(map[textID]text, len(ids))
	shas, formats := make([][]byte, len(ids)), make([]string, len(ids))
	for i := range ids {
		shas[i], formats[i] = ids[i].sha[:], ids[i].format
	}
	rows, err := w.DB.Texts(ctx, b.ProjectID, shas, formats, document.Version)
	for _, t := range rows {
		if t.ErrorCode == nil || !t.CreatedAt.Before(b.CreatedAt) {
			known[textID{[sha256.Size]byte(t.DocumentSHA256), t.Format}] = textOf(t)
		}
	}
	return known, err
}

// wanted is a document that is to be read.
type wanted struct {
	textID
	ref documentRef
}

// texts returns what is known of the texts of a range's documents, and has those read that no batch has had read before. It
// returns errHandedBack when the worker is to stop; what was read until then is kept.
func (w *Worker) texts(ctx context.Context, l *lease, b *batch, ins []store.Input) (map[textID]text, error) {
	ids := make([]textID, 0, len(ins))
	refs := make(map[textID]documentRef, len(ins))
	for _, in := range ins {
		ref, id, err := refOf(in)
		if err != nil {
			return nil, err
		}
		if _, twice := refs[id]; !twice {
			refs[id] = ref
			ids = append(ids, id)
		}
	}
	known, err := w.lookUpTexts(ctx, b, ids)
	if err != nil {
		return nil, fmt.Errorf("look up texts: %w", err)
	}
	missing := make([]wanted, 0, len(ids)-len(known))
	for _, id := range ids {
		if _, ok := known[id]; !ok {
			missing = append(missing, wanted{id, refs[id]})
		}
	}
	if len(missing) == 0 {
		return known, nil
	}
	groups, err := w.groupBySize(ctx, b, missing)
	if err != nil {
		return nil, err
	}
	found := make([]map[textID]text, len(groups))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(w.readers())
	for i, group := range groups {
		g.Go(guarded(func() (err error) {
			switch {
			case gctx.Err() != nil:
				return context.Cause(gctx)
			case l.closed():
				return errHandedBack
			case b.standing().State == "cancelling" || b.standing().State == "cancelled": // nobody will look at what is planned
				return nil
			}
			found[i], err = w.readGroup(gctx, b, group)
			return err
		}))
	}
	err = g.Wait()
	for _, f := range found {
		for id, t := range f {
			known[id] = t
		}
	}
	return known, err
}

func (w *Worker) readers() int { return max(w.Readers, 1) }

const (
	groupDocuments = 64
	groupBytes     = 4 << 20 // of documents that are read from the database at once; one that is larger comes alone
)

// groupBySize makes groups of documents that fit into memory together.
func (w *Worker) groupBySize(ctx context.Context, b *batch, missing []wanted) ([][]wanted, error) {
	shas := make([][]byte, len(missing))
	for i := range missing {
		shas[i] = missing[i].sha[:]
	}
	rows, err := w.DB.DocumentSizes(ctx, b.ProjectID, shas)
	if err != nil {
		return nil, fmt.Errorf("read sizes of documents: %w", err)
	}
	sizes := make(map[[sha256.Size]byte]int64, len(rows))
	for _, r := range rows {
		sizes[[sha256.Size]byte(r.SHA256)] = r.Bytes
	}
	var groups [][]wanted
	from, total := 0, int64(0)
	for i, m := range missing {
		size := sizes[m.sha]
		if i > from && (i-from == groupDocuments || total+size > groupBytes) {
			groups = append(groups, missing[from:i])
			from, total = i, 0
		}
		total += size
	}
	return append(groups, missing[from:]), nil
}

// readGroup has documents read and stores what came of it.
func (w *Worker) readGroup(ctx context.Context, b *batch, group []wanted) (map[textID]text, error) {
	shas := make([][]byte, len(group))
	for i := range group {
		shas[i] = group[i].sha[:]
	}
	stored, err := w.DB.Documents(ctx, b.ProjectID, shas)
	if err != nil {
		return nil, fmt.Errorf("read documents: %w", err)
	}
	bodies := make(map[[sha256.Size]byte][]byte, len(stored))
	for _, d := range stored {
		bodies[[sha256.Size]byte(d.SHA256)] = d.Body
	}
	out := make(map[textID]text, len(group))
	rows := make([]store.Text, 0, len(group))
	for _, m := range group {
		body, ok := bodies[m.sha]
		if !ok {
			out[m.textID] = text{err: purged()}
			continue
		}
		_, t, err := w.read(ctx, m.ref, m.textID, body)
		if err != nil {
			return nil, fmt.Errorf("read a document: %w", err)
		}
		out[m.textID] = textOf(t.TextInfo)
		same := func(r store.Text) bool {
			return r.Format == t.Format && slices.Equal(r.DocumentSHA256, t.DocumentSHA256)
		}
		if t.Format != "" && !slices.ContainsFunc(rows, same) {
			rows = append(rows, t)
		}
	}
	if err := w.DB.PutTexts(ctx, b.ProjectID, rows); err != nil {
		return nil, fmt.Errorf("store texts: %w", err)
	}
	return out, nil
}

// text returns the text of the job's document and its hash.
func (t *task) text(ctx context.Context) (document.Document, []byte, error) {
	if t.document == nil {
		doc, sum, err := t.readText(ctx)
		if err != nil {
			return document.Document{}, nil, err
		}
		t.document, t.sum = &doc, sum
	}
	return *t.document, t.sum, nil
}

func (t *task) readText(ctx context.Context) (document.Document, []byte, error) {
	in := store.Input{Input: t.job.Input, DocumentSHA256: t.job.DocumentSHA256}
	ref, id, err := refOf(in)
	if err != nil {
		return document.Document{}, nil, err
	}
	var row store.Text
	if id.format != "" {
		row, err = t.w.DB.DocumentText(ctx, t.batch.ProjectID, store.TextID{DocumentSHA256: id.sha[:], Format: id.format, Version: document.Version})
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return document.Document{}, nil, t.fault("read text", err)
		}
	}
	if row.Body != nil {
		return document.Document{Format: row.Format, Title: row.Title, Text: *row.Body}, row.SHA256, nil
	}
	stored, err := t.w.DB.Document(ctx, t.batch.ProjectID, id.sha[:])
	if errors.Is(err, store.ErrNotFound) {
		return document.Document{}, nil, purged()
	} else if err != nil {
		return document.Document{}, nil, t.fault("read document", err)
	}
	doc, made, err := t.w.read(ctx, ref, id, stored.Body)
	if err != nil {
		return doc, nil, t.fault("read a document", err)
	}
	if made.ErrorCode != nil {
		return doc, nil, unreadable(*made.ErrorCode, *made.ErrorMessage)
	}
	return doc, made.SHA256, nil
}

// SourceText returns the text of a job's document as a summary is made of it, or [store.ErrNotFound] when it can't be read.
func SourceText(source store.Source) (string, error) {
	var ref documentRef
	if err := json.Unmarshal(source.Input, &ref); err != nil {
		return "", fmt.Errorf("jobs: stored document reference: %w", err)
	}
	if source.Text != nil {
		return *source.Text, nil
	}
	var err error
	if ref.Format == "" {
		ref.Format, err = document.Detect(ref.Name, ref.ContentType, source.Body)
	}
	if err != nil || document.Isolated(ref.Format) { // it wasn't read yet, or has no text
		return "", store.ErrNotFound
	}
	doc, err := document.Read(ref.Format, source.Body, document.Options{})
	if _, ok := errors.AsType[*document.Error](err); ok {
		return "", store.ErrNotFound
	}
	return doc.Text, err
}
