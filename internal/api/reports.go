package api

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/report"
)

type reportReader interface {
	Raw(ctx context.Context, sql string, args ...any) iter.Seq2[[][]byte, error]
	ExportResults(ctx context.Context, batch uuid.UUID, state string, from, to int32) iter.Seq2[[][]byte, error]
}

// ListReports lists what can be asked.
func (h *handlers) ListReports(context.Context, ListReportsRequestObject) (ListReportsResponseObject, error) {
	return ListReports200JSONResponse{Data: each(report.All(), func(r report.Report) Report {
		out := Report{Name: r.Name, Description: r.Description, Grouped: r.Grouped, Columns: each(r.Columns, func(c report.Column) ReportColumn {
			return ReportColumn{Name: c.Name, Type: c.Type, Sum: c.Sum}
		})}
		if r.Time != "" {
			out.TimeColumn = &r.Time
		}
		return out
	})}, nil
}

const jsonRows = 1000 // of a report in JSON, unless a limit is given

// GetReport answers one question.
func (h *handlers) GetReport(ctx context.Context, req GetReportRequestObject) (GetReportResponseObject, error) {
	r, err := findReport(req.Name)
	if err != nil {
		return nil, err
	}
	p := req.Params
	name := deref(p.Format, "json")
	f, err := report.FindFormat(name)
	if err != nil {
		return nil, err
	}
	limit := int(deref(p.Limit, 0))
	if limit == 0 && name == "json" {
		limit = jsonRows
	}
	q := report.Query{From: deref(p.From, ""), To: deref(p.To, ""), By: p.By, Where: p.Where, Sort: p.Sort, Limit: limit}
	if limit > 0 {
		q.Limit++ // to know whether there are more
	}
	s, err := r.Build(projectOf(ctx).ID, q)
	if err != nil {
		return nil, err
	}
	return fileStream{format: f, columns: s.Columns, rows: h.Read.Raw(ctx, s.SQL, s.Args...), limit: limit,
		options: report.Options{BOM: deref(p.Bom, false)}, log: h.Log.With("report", r.Name)}, nil
}

func findReport(name string) (report.Report, error) {
	r, ok := report.Find(name)
	if !ok {
		names := each(report.All(), func(r report.Report) string { return r.Name })
		return r, &problem{status: http.StatusNotFound, detail: "there is no such report; there are " + strings.Join(names, ", ")}
	}
	return r, nil
}

// ExportBatch streams the results of a batch as a file.
func (h *handlers) ExportBatch(ctx context.Context, req ExportBatchRequestObject) (ExportBatchResponseObject, error) {
	p := req.Params
	name := deref(p.Format, "ndjson")
	f, err := report.FindFormat(name)
	if err != nil || name == "json" { // which is for reports
		return nil, invalidField("format", "enum", "want csv, ndjson or parquet")
	}
	from, to := deref(p.From, 1), deref(p.To, 1<<31-1)
	if to < from {
		return nil, invalidField("to", "invalid", "is before from")
	}
	b, err := h.batch(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	if b.PurgedAt != nil {
		return nil, &problem{status: http.StatusGone, detail: "the batch was purged: its counts are left, and the answers that are in the result cache"}
	}
	return fileStream{format: f, columns: report.ResultColumns, rows: h.Read.ExportResults(ctx, b.ID, string(deref(p.Status, "")), from, to),
		options: report.Options{BOM: deref(p.Bom, false)}, log: h.Log.With("batch_id", b.ID)}, nil
}

// fileStream writes rows in a format while they are read.
type fileStream struct {
	format  report.Format
	columns []report.Column
	rows    iter.Seq2[[][]byte, error]
	limit   int
	options report.Options
	log     *slog.Logger
}

// VisitGetReportResponse writes the answer.
func (s fileStream) VisitGetReportResponse(w http.ResponseWriter) error { return s.write(w) }

// VisitExportBatchResponse writes the answer.
func (s fileStream) VisitExportBatchResponse(w http.ResponseWriter) error { return s.write(w) }

// write breaks the connection off when the rows end in an error after the first byte, as results do.
func (s fileStream) write(w http.ResponseWriter) error {
	out := &patientWriter{w: w, ctl: http.NewResponseController(w), contentType: s.format.ContentType}
	err := s.format.Write(out, s.columns, s.rows, s.limit, s.options)
	switch {
	case err == nil || out.gone:
		return nil
	case !out.started:
		return fmt.Errorf("api: report: %w", err)
	}
	if !errors.Is(err, context.Canceled) { // by whoever asked, and has gone
		s.log.Error("report broke off", "err", err)
	}
	panic(http.ErrAbortHandler)
}

// patientWriter sends the head with the first bytes, and gives a client that doesn't read a minute for each write.
type patientWriter struct {
	w             http.ResponseWriter
	ctl           *http.ResponseController
	contentType   string
	started, gone bool
}

func (p *patientWriter) Write(b []byte) (int, error) {
	if !p.started {
		p.started = true
		p.w.Header().Set("Content-Type", p.contentType)
		p.w.Header().Set("Cache-Control", "no-store")
		p.w.WriteHeader(http.StatusOK)
	}
	_ = p.ctl.SetWriteDeadline(time.Now().Add(writeTimeout)) // test recorders can't
	n, err := p.w.Write(b)
	p.gone = p.gone || err != nil
	return n, err
}
