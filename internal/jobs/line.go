package jobs

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// JobID is a job's id as people see it: the batch's UUID, a dash, and the job's number.
func JobID(batch uuid.UUID, seq int32) string {
	return batch.String() + "-" + strconv.Itoa(int(seq))
}

// ParseJobID takes such an id apart.
func ParseJobID(id string) (batch uuid.UUID, seq int32, ok bool) {
	const dash = 36
	if len(id) < dash+2 || id[dash] != '-' {
		return uuid.UUID{}, 0, false
	}
	batch, err := uuid.Parse(id[:dash])
	n, serr := strconv.ParseInt(id[dash+1:], 10, 32)
	return batch, int32(n), err == nil && serr == nil && n > 0
}

// line is a submitted job, taken apart. Which of variables, body and document it must have is the kind's business.
type line struct {
	CustomID  *string         `json:"custom_id"`
	Variables json.RawMessage `json:"variables"`
	Body      json.RawMessage `json:"body"`
	Document  *inlineDocument `json:"document"`

	number  int
	upload  *Upload
	removed bool // of a rerun's changes: the job is left out
}

type inlineDocument struct {
	Name        string `json:"name"`
	ContentType string `json:"content_type"`
	Text        string `json:"text"`
}

const maxCustomID = 512

func parseLine(l Line) (*line, *LineError) {
	if u := l.Upload; u != nil {
		out := &line{number: l.Number, upload: u}
		switch {
		case u.Stored:
			out.CustomID = u.CustomID
		case u.Name != "":
			name := strings.ToValidUTF8(u.Name, "\uFFFD")
			out.CustomID = &name
		}
		return out, out.checkID()
	}
	if out, ok := splitLine(l.Raw); ok {
		out.number = l.Number
		return out, out.checkID()
	}
	out := &line{number: l.Number}
	d := json.NewDecoder(bytes.NewReader(l.Raw))
	d.DisallowUnknownFields()
	if err := d.Decode(out); err != nil {
		return nil, &LineError{Line: l.Number, Code: "invalid_json", Message: jsonProblem(err) + ": want one JSON object a line"}
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, &LineError{Line: l.Number, Code: "invalid_json", Message: "something follows the JSON object: want one object a line"}
	}
	return out, out.checkID()
}

func (l *line) checkID() *LineError {
	if l.CustomID == nil {
		return nil
	}
	if id := *l.CustomID; id == "" || len(id) > maxCustomID || strings.ContainsRune(id, 0) || !utf8.ValidString(id) {
		l.CustomID = nil
		return l.problem("custom_id", "invalid_custom_id", fmt.Sprintf("is empty, longer than %d bytes, or has a NUL character", maxCustomID))
	}
	return nil
}

// only checks that of the three fields a job may bring, it brings the one that its kind wants.
func (l *line) only(field string) *LineError {
	has := map[string]bool{"variables": present(l.Variables), "body": present(l.Body), "document": l.Document != nil}
	if l.upload != nil {
		return l.problem("", "unexpected_file", "this kind takes no files: send its jobs as NDJSON")
	}
	for _, other := range []string{"variables", "body", "document"} {
		if other != field && has[other] {
			return l.problem(other, "unexpected_field", fmt.Sprintf("does not belong here: this kind wants %s", field))
		}
	}
	if !has[field] && field != "variables" { // a template may have none
		return l.problem(field, "missing", "is missing")
	}
	return nil
}

func present(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

func (l *line) problem(field, code, message string) *LineError {
	e := &LineError{Line: l.number, Field: field, Code: code, Message: message}
	if l.CustomID != nil {
		e.CustomID = *l.CustomID
	}
	return e
}
