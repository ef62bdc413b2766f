package api

import (
	"context"
	"encoding/hex"
	"fmt"
	"math"

	"github.com/google/uuid"

	"batchwright/internal/jobs"
	"batchwright/internal/report"
	"batchwright/internal/store"
)

// ExportWriter is what changes exports: *export.Service, or a fake of it.
type ExportWriter interface {
	Request(ctx context.Context, project store.Project, batch uuid.UUID, e jobs.ExportSpec, first, last int32) (store.Export, error)
	RequestReport(ctx context.Context, project store.Project, r report.Report, q report.Query, e jobs.ExportSpec) (store.Export, error)
	Cancel(ctx context.Context, project, id uuid.UUID) (store.Export, error)
}

type exportReader interface {
	Export(ctx context.Context, project, id uuid.UUID) (store.Export, error)
	Exports(ctx context.Context, project uuid.UUID, batch *uuid.UUID, state string, before *uuid.UUID, limit int) ([]store.Export, error)
}

func exportID(id ExportID) (uuid.UUID, error) { return pathID("export", id) }

// CreateExport asks for a file of a batch's results.
func (h *handlers) CreateExport(ctx context.Context, req CreateExportRequestObject) (CreateExportResponseObject, error) {
	batch, err := batchID(req.ID)
	if err != nil {
		return nil, err
	}
	in := req.Body
	spec := jobs.ExportSpec{Format: string(in.Format), Target: in.Target, Status: string(deref(in.Status, "")), BOM: deref(in.Bom, false)}
	e, err := h.Exports.Request(ctx, projectOf(ctx), batch, spec, deref(in.From, 1), deref(in.To, math.MaxInt32))
	if err != nil {
		return nil, err
	}
	return CreateExport202JSONResponse{Body: toExport(e), Headers: CreateExport202ResponseHeaders{Location: "/v1/exports/" + e.ID.String()}}, nil
}

// CreateReportExport asks for a file of a report.
func (h *handlers) CreateReportExport(ctx context.Context, req CreateReportExportRequestObject) (CreateReportExportResponseObject, error) {
	r, err := findReport(req.Name)
	if err != nil {
		return nil, err
	}
	in := req.Body
	q := report.Query{From: deref(in.From, ""), To: deref(in.To, ""), By: in.By, Where: in.Where, Sort: in.Sort}
	e, err := h.Exports.RequestReport(ctx, projectOf(ctx), r, q, jobs.ExportSpec{Format: string(in.Format), Target: in.Target, BOM: deref(in.Bom, false)})
	if err != nil {
		return nil, err
	}
	return CreateReportExport202JSONResponse{Body: toExport(e), Headers: CreateReportExport202ResponseHeaders{Location: "/v1/exports/" + e.ID.String()}}, nil
}

// ListBatchExports pages through a batch's exports.
func (h *handlers) ListBatchExports(ctx context.Context, req ListBatchExportsRequestObject) (ListBatchExportsResponseObject, error) {
	b, err := h.batch(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	p, err := h.exports(ctx, &b.ID, "", req.Params.Cursor, req.Params.Limit)
	return ListBatchExports200JSONResponse(p), err
}

// ListExports pages through the project's exports.
func (h *handlers) ListExports(ctx context.Context, req ListExportsRequestObject) (ListExportsResponseObject, error) {
	p, err := h.exports(ctx, nil, string(deref(req.Params.State, "")), req.Params.Cursor, req.Params.Limit)
	return ListExports200JSONResponse(p), err
}

func (h *handlers) exports(ctx context.Context, batch *uuid.UUID, state string, at *Cursor, most *Limit) (ExportPage, error) {
	before, err := cursorID(at)
	if err != nil {
		return ExportPage{}, err
	}
	limit := deref(most, 50)
	rows, err := h.Read.Exports(ctx, projectOf(ctx).ID, batch, state, before, limit+1)
	if err != nil {
		return ExportPage{}, fmt.Errorf("api: exports: %w", err)
	}
	rows, next := page(rows, limit, func(e store.Export) string { return e.ID.String() })
	return ExportPage{Data: each(rows, toExport), NextCursor: next}, nil
}

// GetExport shows an export.
func (h *handlers) GetExport(ctx context.Context, req GetExportRequestObject) (GetExportResponseObject, error) {
	id, err := exportID(req.ID)
	if err != nil {
		return nil, err
	}
	e, err := h.Read.Export(ctx, projectOf(ctx).ID, id)
	if err != nil {
		return nil, fmt.Errorf("api: export: %w", err)
	}
	return GetExport200JSONResponse(toExport(e)), nil
}

// CancelExport ends an export that isn't final.
func (h *handlers) CancelExport(ctx context.Context, req CancelExportRequestObject) (CancelExportResponseObject, error) {
	id, err := exportID(req.ID)
	if err != nil {
		return nil, err
	}
	e, err := h.Exports.Cancel(ctx, projectOf(ctx).ID, id)
	if err != nil {
		return nil, err
	}
	return CancelExport200JSONResponse(toExport(e)), nil
}

func toExport(e store.Export) Export {
	out := Export{
		ID: e.ID, BatchID: e.BatchID, Report: e.Report, Origin: e.Origin, State: ExportState(e.State), Format: ExportFormat(e.Format), Target: e.Target, URL: e.URL,
		Bom: e.BOM, Rows: e.Rows, Bytes: e.Bytes, Error: e.Error, Attempts: e.Attempts, DueAt: utc(e.DueAt), CreatedAt: e.CreatedAt.UTC(),
		StartedAt: utc(e.StartedAt), EndedAt: utc(e.EndedAt),
	}
	if e.Status != "" {
		out.Status = &e.Status
	}
	if e.BatchID != nil {
		out.From = &e.FirstIndex
	}
	if e.LastIndex < math.MaxInt32 {
		out.To = &e.LastIndex
	}
	if e.SHA256 != nil {
		sum := hex.EncodeToString(e.SHA256)
		out.Sha256 = &sum
	}
	return out
}
