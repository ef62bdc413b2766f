package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"batchwright/internal/process"
)

func (a *app) extract() *cobra.Command {
	var asJSON, quiet bool
	c := &cobra.Command{
		Use: "extract FILE|FOLDER...", Short: "Show the text that documents would have in a batch", Args: cobra.MinimumNArgs(1),
		Long: `Show the text that documents would have in a batch, read on this machine as a worker reads
them, without any service. What can't be read is said on standard error, and ends with 1.`,
		Example: `  batchwright extract report.pdf
  batchwright extract --quiet examples/documents`,
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print one JSON object a file")
	c.Flags().BoolVar(&quiet, "quiet", false, "print one line a file, without the text")
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		paths, err := files(args)
		if err != nil {
			return err
		}
		bad := 0
		err = process.Extract(ctx, a.getenv, slog.New(slog.NewTextHandler(a.stderr, nil)), paths, func(path string, e process.Extracted, problem error) error {
			if problem != nil {
				bad++
				_, err := fmt.Fprintf(a.stderr, "%s: %s\n", clean(path), problem)
				return err
			}
			return printText(a.stdout, path, e, asJSON, quiet)
		})
		if err == nil && bad > 0 {
			err = fmt.Errorf("%s of %s can't be read", plural(int64(bad), "document", "documents"), number(int64(len(paths))))
		}
		return err
	})
	return c
}

func printText(w io.Writer, path string, e process.Extracted, asJSON, quiet bool) error {
	if asJSON {
		return json.NewEncoder(w).Encode(struct {
			File string `json:"file"`
			process.Extracted
		}{path, e})
	}
	pages := ""
	if e.Pages > 0 {
		pages = plural(int64(e.Pages), "page", "pages") + ", "
	}
	_, err := fmt.Fprintf(w, "%s: %s by %s, %s%s, %.0f%% letters, title %q\n", clean(path), e.Format, e.Extractor, pages,
		plural(int64(e.Characters), "character", "characters"), 100*e.Letters, e.Title)
	if err == nil && !quiet {
		_, err = fmt.Fprintf(w, "\n%s\n\n", e.Text)
	}
	return err
}
