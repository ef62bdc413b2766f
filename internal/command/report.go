package command

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) report() *cobra.Command {
	var from, to, format, path, target string
	var by, where, sort []string
	var limit int
	var asCSV, bom, wait bool
	c := &cobra.Command{
		Use: "report [NAME]", Short: "Show a report, or list the reports with their columns", Args: cobra.MaximumNArgs(1),
		Long: `Show a report, write it to a file here, or with --target have the server write all its rows to a
folder or bucket of its own. In a target {report}, {date}, {project} and {format} are filled in.
Without a name: list the reports with their columns.`,
		Example: `  batchwright report hourly_costs --from 2026-12-01 --by template,provider,model --sort -cost_microusd
  batchwright report failures --where scope=job --csv
  batchwright report hourly_costs --format parquet --target "s3://reports/{report}/{date}.parquet" --wait`,
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			if len(args) == 0 {
				return a.listReports(ctx, api)
			}
			if asCSV {
				format = "csv"
			}
			if target != "" {
				switch {
				case path != "":
					return errTwoFiles
				case limit > 0:
					return usagef("--limit is for reports that come here: the server's file has all rows")
				case format == "":
					return usagef("--target needs --format csv, ndjson or parquet")
				}
				e, err := api.CreateReportExport(ctx, args[0], client.ReportExportOptions{
					Format: format, Target: target, BOM: bom, From: from, To: to, By: by, Where: where, Sort: sort,
				})
				return a.requested(ctx, api, wait, e, err)
			}
			q := url.Values{}
			for name, v := range map[string]string{"from": from, "to": to, "by": strings.Join(by, ","), "sort": strings.Join(sort, ",")} {
				if v != "" {
					q.Set(name, v)
				}
			}
			q["where"] = where
			if limit > 0 {
				q.Set("limit", strconv.Itoa(limit))
			}
			if bom {
				q.Set("bom", "true")
			}
			if format != "" {
				q.Set("format", format)
				return output(path, a.stdout, func(w io.Writer) error { return api.Report(ctx, args[0], q, w) })
			}
			q.Set("format", "csv")
			if limit == 0 {
				q.Set("limit", "1000")
			}
			var text bytes.Buffer
			if err := api.Report(ctx, args[0], q, &text); err != nil {
				return err
			}
			return output(path, a.stdout, func(w io.Writer) error { return align(w, &text) })
		}),
	}
	f := c.Flags()
	f.StringVar(&from, "from", "", "first moment, RFC 3339 or a day in UTC")
	f.StringVar(&to, "to", "", "first moment behind the range")
	f.StringSliceVar(&by, "by", nil, "columns to group by, with commas between")
	f.StringArrayVar(&where, "where", nil, "COLUMN=VALUE, or with !=, <, <=, >, >=; may be repeated")
	f.StringSliceVar(&sort, "sort", nil, "columns to sort by, a - before one sorts down")
	f.IntVar(&limit, "limit", 0, "most rows (default 1000 for a table)")
	f.StringVar(&format, "format", "", "csv, ndjson, json or parquet instead of a table")
	f.BoolVar(&asCSV, "csv", false, "the same as --format csv")
	f.BoolVar(&bom, "bom", false, "begin CSV with a byte order mark, for Excel")
	targetFlags(c, &target, &wait)
	f.StringVarP(&path, "out", "o", "", "file to write to; it appears when it is complete")
	return c
}

func (a *app) listReports(ctx context.Context, api *client.Client) error {
	all, err := api.Reports(ctx)
	if err != nil {
		return err
	}
	for _, r := range all {
		var dims, sums []string
		for _, c := range r.Columns {
			if c.Sum {
				sums = append(sums, c.Name)
			} else {
				dims = append(dims, c.Name)
			}
		}
		fmt.Fprintf(a.stdout, "%s\n  %s\n  columns: %s\n", r.Name, r.Description, strings.Join(dims, ", "))
		if len(sums) > 0 {
			fmt.Fprintf(a.stdout, "  sums: %s\n", strings.Join(sums, ", "))
		}
	}
	return nil
}

// align lays out a CSV for a terminal.
func align(w io.Writer, text io.Reader) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	r := csv.NewReader(text)
	for {
		row, err := r.Read()
		if err == io.EOF {
			return t.Flush()
		}
		if err != nil {
			return err
		}
		for i, v := range row {
			row[i] = clean(v)
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
}

func (a *app) export() *cobra.Command {
	var format, path, status string
	var from, to int32
	var bom, wait bool
	var target string
	c := &cobra.Command{
		Use: "export BATCH", Short: "Write a batch's final results as CSV, NDJSON or Parquet", Args: cobra.ExactArgs(1),
		Long: `Write a batch's final results to a file here, or with --target have the server write them to a
folder or bucket of its own once the batch is final. In a target {batch}, {name}, {date}, {project}
and {format} are filled in.`,
		Example: `  batchwright export 01a2... --format parquet --out results.parquet
  batchwright export 01a2... --format parquet --target "s3://reports/{date}/{batch}.parquet" --wait`,
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			if target != "" {
				if path != "" {
					return errTwoFiles
				}
				e, err := api.CreateExport(ctx, args[0], client.ExportOptions{Format: format, Target: target, Status: status, BOM: bom, From: from, To: to})
				return a.requested(ctx, api, wait, e, err)
			}
			q := url.Values{"format": {format}}
			if from > 0 {
				q.Set("from", strconv.Itoa(int(from)))
			}
			if to > 0 {
				q.Set("to", strconv.Itoa(int(to)))
			}
			if status != "" {
				q.Set("status", status)
			}
			if bom {
				q.Set("bom", "true")
			}
			return output(path, a.stdout, func(w io.Writer) error { return api.Export(ctx, args[0], q, w) })
		}),
	}
	f := c.Flags()
	f.StringVar(&format, "format", "ndjson", "csv, ndjson or parquet")
	targetFlags(c, &target, &wait)
	f.StringVarP(&path, "out", "o", "", "file to write to; it appears when it is complete")
	f.Int32Var(&from, "from", 0, "first index")
	f.Int32Var(&to, "to", 0, "last index")
	f.StringVar(&status, "status", "", "only results that are succeeded, failed or cancelled")
	f.BoolVar(&bom, "bom", false, "begin CSV with a byte order mark, for Excel")
	return c
}
