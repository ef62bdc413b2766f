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
	doc, err := document.Extract(ref.Name, ref.ContentType, source.Body)
	if _, ok := errors.AsType[*document.Error](err); ok {
		return "", store.ErrNotFound
	}
	return doc.Text, err
}
