package process

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"batchwright/internal/document"
	"batchwright/internal/extract"
)

// extraction reads how documents are read.
func (r *reader) extraction() extract.Options {
	return extract.Options{
		Processes: int(r.whole("EXTRACT_PROCESSES", 0, 1, 1000)),
		Timeout:   r.duration("EXTRACT_TIMEOUT", 10*time.Second, 100*time.Millisecond),
		PDFToText: r.text("PDFTOTEXT", ""),
	}
}

// readers makes what reads documents.
func readers(ctx context.Context, o extract.Options, log *slog.Logger) (*extract.Pool, error) {
	o.Log = log
	pool, err := extract.New(ctx, o)
	if err != nil && o.PDFToText != "" {
		err = fmt.Errorf("PDFTOTEXT: %w", err)
	}
	return pool, err
}

// Extracted is what a file's text would be in a batch.
type Extracted struct {
	Format     string  `json:"format"`
	Extractor  string  `json:"extractor"`
	Title      string  `json:"title"`
	Pages      int     `json:"pages"`
	Characters int     `json:"characters"`
	Letters    float64 `json:"letters"`
	Text       string  `json:"text"`
}

// Extract reads files as a worker would, and hands each to then, with why it can't be read.
func Extract(ctx context.Context, getenv func(string) string, log *slog.Logger, paths []string, then func(path string, e Extracted, problem error) error) error {
	r := &reader{getenv: getenv}
	o := r.extraction()
	if len(r.problems) > 0 {
		return errors.Join(r.problems...)
	}
	pool, err := readers(ctx, o, log)
	if err != nil {
		return err
	}
	defer pool.Close()
	for _, path := range paths {
		e, problem := extractFile(ctx, pool, path)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := then(path, e, problem); err != nil {
			return err
		}
	}
	return nil
}

func extractFile(ctx context.Context, pool *extract.Pool, path string) (Extracted, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Extracted{}, err
	}
	if info.Size() > document.MaxBytes {
		return Extracted{}, fmt.Errorf("%s has %d bytes; at most %d are read", path, info.Size(), document.MaxBytes)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Extracted{}, err
	}
	format, err := document.Detect(path, "", data)
	if err != nil {
		return Extracted{}, err
	}
	doc, err := pool.Read(ctx, format, data)
	return Extracted{format, doc.Extractor, doc.Title, doc.Pages, doc.Characters, doc.Letters, doc.Text}, err
}
