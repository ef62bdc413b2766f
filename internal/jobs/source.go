package jobs

import (
	"encoding/json"
	"errors"
	"fmt"

	"batchwright/internal/document"
	"batchwright/internal/store"
)

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
