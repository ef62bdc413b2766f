package store

import (
	"context"
	"time"

	"github.com/google/uuid"
)

// TextID names what one version of the readers makes of a document.
type TextID struct {
	DocumentSHA256 []byte
	Format         string
	Version        int32
}

// TextInfo is what is known of a document's text, or why it has none.
type TextInfo struct {
	TextID
	Extractor    string
	SHA256       []byte // of title and text; nil when there is none
	Title        string
	Pages        int32
	Characters   int32
	Letters      float32
	ErrorCode    *string
	ErrorMessage *string
	CreatedAt    time.Time // set by the database
}

// Text is a document's text.
type Text struct {
	TextInfo
	Body *string // nil when it is to be read from the document again
}

const (
	textCols  = `t.document_sha256, t.format, t.version, t.extractor, t.sha256, t.title, t.pages, t.characters, t.letters, t.error_code, t.error_message, t.created_at`
	findTexts = `-- name: FindTexts
select ` + textCols + `
from unnest($2::bytea[], $3::text[]) as u(sha256, format)
join texts t on t.project_id = $1 and t.document_sha256 = u.sha256 and t.format = u.format and t.version = $4`
	getText = `-- name: GetText
select ` + textCols + `, t.body from texts t where project_id = $1 and document_sha256 = $2 and format = $3 and version = $4`
	documentSizes = `-- name: DocumentSizes
select sha256, bytes from documents where project_id = $1 and sha256 = any($2::bytea[])`
	getDocuments = `-- name: GetDocuments
select sha256, body from documents where project_id = $1 and sha256 = any($2::bytea[])`
	// A failure may be overwritten: what it was about may have passed. A text never is, because keys hang on it.
	putTexts = `-- name: PutTexts
insert into texts (project_id, document_sha256, format, version, extractor, sha256, title, pages, characters, letters, body, error_code, error_message)
select $1::uuid, u.* from unnest($2::bytea[], $3::text[], $4::int[], $5::text[], $6::bytea[], $7::text[], $8::int[], $9::int[], $10::real[], $11::text[], $12::text[], $13::text[])
    as u(document_sha256, format, version, extractor, sha256, title, pages, characters, letters, body, error_code, error_message)
join documents d on d.project_id = $1 and d.sha256 = u.document_sha256
on conflict (project_id, document_sha256, format, version) do update set extractor = excluded.extractor, sha256 = excluded.sha256, title = excluded.title,
    pages = excluded.pages, characters = excluded.characters, letters = excluded.letters, body = excluded.body, error_code = excluded.error_code,
    error_message = excluded.error_message, created_at = excluded.created_at
where texts.sha256 is null`
	jobText = `-- name: JobText
select ` + textCols + `
from batches b join inputs i on i.batch_id = b.id join texts t on t.project_id = b.project_id and t.document_sha256 = i.document_sha256 and t.format = i.input->>'format'
where b.id = $2 and b.project_id = $1 and i.seq = $3
order by t.version desc limit 1`
)

// Texts returns what is known of documents in formats, in no order. Both slices are of one length.
func (r Reader) Texts(ctx context.Context, project uuid.UUID, sha256s [][]byte, formats []string, version int32) ([]TextInfo, error) {
	return many[TextInfo](ctx, r.q, findTexts, project, sha256s, formats, version)
}

// DocumentText returns one text, or ErrNotFound.
func (r Reader) DocumentText(ctx context.Context, project uuid.UUID, id TextID) (Text, error) {
	return one[Text](ctx, r.q, getText, project, id.DocumentSHA256, id.Format, id.Version)
}

// JobText returns what is known of the document of a project's job. ErrNotFound when it has none, or it wasn't read yet.
func (r Reader) JobText(ctx context.Context, project, batch uuid.UUID, seq int32) (TextInfo, error) {
	return one[TextInfo](ctx, r.q, jobText, project, batch, seq)
}

// DocumentSize is how large a document is, in bytes.
type DocumentSize struct {
	SHA256 []byte
	Bytes  int64
}

// DocumentSizes returns the sizes of those of the documents that are there, in no order.
func (r Reader) DocumentSizes(ctx context.Context, project uuid.UUID, sha256s [][]byte) ([]DocumentSize, error) {
	return many[DocumentSize](ctx, r.q, documentSizes, project, sha256s)
}

// StoredDocument is a document's content.
type StoredDocument struct {
	SHA256 []byte
	Body   []byte
}

// Documents returns those of the documents that are there, in no order.
func (r Reader) Documents(ctx context.Context, project uuid.UUID, sha256s [][]byte) ([]StoredDocument, error) {
	return many[StoredDocument](ctx, r.q, getDocuments, project, sha256s)
}

// PutTexts stores texts, and failures where there is no text yet. Those of documents that were purged meanwhile are left out. Each document and format
// comes once.
func (db *DB) PutTexts(ctx context.Context, project uuid.UUID, texts []Text) error {
	n := len(texts)
	sha, format, version, extractor := make([][]byte, n), make([]string, n), make([]int32, n), make([]string, n)
	sum, title, pages, characters, letters := make([][]byte, n), make([]string, n), make([]int32, n), make([]int32, n), make([]float32, n)
	body, code, message := make([]*string, n), make([]*string, n), make([]*string, n)
	for i := range texts {
		t := &texts[i]
		sha[i], format[i], version[i], extractor[i] = t.DocumentSHA256, t.Format, t.Version, t.Extractor
		sum[i], title[i], pages[i], characters[i], letters[i] = t.SHA256, t.Title, t.Pages, t.Characters, t.Letters
		body[i], code[i], message[i] = t.Body, t.ErrorCode, t.ErrorMessage
	}
	_, err := db.pool.Exec(ctx, putTexts, project, sha, format, version, extractor, sum, title, pages, characters, letters, body, code, message)
	return translate(err)
}
