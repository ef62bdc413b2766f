package jobs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"

	"batchwright/internal/store"
)

// ExportSpec says where a batch's results go, and how. Its form as JSON is the contract's, and what is stored.
type ExportSpec struct {
	Format string `json:"format"`
	Target string `json:"target"` // URL, with placeholders
	Status string `json:"status,omitempty"`
	BOM    bool   `json:"bom,omitempty"`
}

// settleExport writes where the results go, which is tried when it is new.
func (s *Service) settleExport(ctx context.Context, project store.Project, row *store.Schedule, e *ExportSpec) error {
	if e == nil {
		row.Export = nil
		return nil
	}
	text, err := json.Marshal(e)
	if err != nil || bytes.Equal(text, row.Export) {
		return err
	}
	if err := s.CheckExport(ctx, project, *e); err != nil {
		return within("export", err)
	}
	row.Export = text
	return nil
}

// within puts the name of what holds it before the field of a refusal.
func within(holder string, err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		_ = e.within(holder)
	}
	return err
}

func (e *Error) within(holder string) *Error {
	if e.Field != "" {
		e.Field = holder + "." + e.Field
	}
	return e
}

func exportOf(row store.Schedule) (e *ExportSpec, err error) {
	if row.Export != nil {
		err = json.Unmarshal(row.Export, &e)
	}
	return e, err
}
