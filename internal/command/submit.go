package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) submit() *cobra.Command {
	var o client.BatchOptions
	var from sourceFlags
	var params string
	var maxCost string
	var wait, dry bool
	c := &cobra.Command{
		Use:   "submit FILE... | JOBS.ndjson | TABLE.csv | - | --source URL,...",
		Short: "Submit documents, or jobs as NDJSON or CSV, as a batch",
		Long: `Submit documents, or jobs as NDJSON or CSV, as a batch, and print its id.

Documents are files, or folders of which every file counts, but not the hidden ones and not those
of folders within. Each is one job of kind summarize. Jobs are one JSON object a line, in a file
that ends in .ndjson or .jsonl, or - for standard input; or the rows of a .csv file, whose first
line names the template's variables, and id for the jobs' own ids. A file that ends in .gz or .zst
behind that is sent as it is. With --source or --source-query nothing is sent: the server gathers
the jobs, and again at each rerun.`,
		Example: `  batchwright submit --route local/extractive --wait examples/documents
  batchwright submit --kind generate --template product-blurb --route openai:gpt-4.1-mini examples/products.ndjson
  batchwright submit --template ticket-triage --route nightly examples/tickets.csv
  batchwright submit --route nightly --source 's3://docs/reports/**/*.pdf,https://example.com/terms.html'
  batchwright submit --dry-run --kind generate --template product-blurb --route openai:gpt-4.1-mini examples/products.ndjson
  produce-jobs | batchwright submit --kind chat --route nightly@3 -`,
	}
	f := c.Flags()
	from.define(c)
	f.StringVar(&o.Kind, "kind", "", "summarize, generate, chat or pipeline (required for NDJSON; else documents are summarized, a table is for generate)")
	f.StringVar(&o.Route, "route", "", "stored route, chain such as openai:gpt-4.1-mini,local/extractive, or JSON (required)")
	f.StringVar(&o.Template, "template", "", "template, as NAME or NAME@VERSION")
	f.StringVar(&params, "params", "", "options of the kind, a JSON object, or @FILE with one")
	style := newStyle(c)
	f.StringVar(&o.Name, "name", "", "name of the batch, for people")
	f.StringVar(&o.OnInvalid, "on-invalid", "", "refuse (default): a wrong line refuses the batch; skip: it becomes a failed job")
	f.StringVar(&o.Cache, "cache", "", "use (default), refresh (ask again, keep the new answers), only (make no calls) or off")
	f.StringToStringVar(&o.Metadata, "metadata", nil, "labels, as KEY=VALUE,...")
	f.StringVar(&o.IdempotencyKey, "idempotency-key", "", "makes a repeat safe: the same key and submission is the same batch")
	f.StringVar(&maxCost, "max-cost-usd", "", "most that its calls may cost, in US dollars")
	f.StringVar(&o.OnForecastOver, "on-forecast-over", "", "what to do when the forecast is over --max-cost-usd: run (default; it is paused when it gets there), pause (before the first call) or refuse")
	f.BoolVar(&dry, "dry-run", false, "show the forecast, and leave no batch: nothing is called and nothing is spent")
	f.BoolVar(&wait, "wait", false, "wait for the end, showing progress on standard error")
	if err := c.MarkFlagRequired("route"); err != nil {
		panic(err) // the flag is a few lines above
	}
	c.RunE = a.talk(func(ctx context.Context, api *client.Client, args []string) error {
		var err error
		if o.Params, err = readParams(params); err != nil {
			return err
		}
		if o.Params, err = style.addTo(o.Params); err != nil {
			return err
		}
		if o.Source, err = from.source(); err != nil {
			return err
		}
		if maxCost != "" {
			most, err := micros(maxCost)
			if err != nil {
				return err
			}
			o.MaxCostMicrousd = &most
		}
		if dry {
			return a.dryRun(ctx, api, args, o)
		}
		b, err := sender[client.Batch]{api.SubmitDocuments, api.SubmitNDJSON, api.SubmitCSV, api.SubmitSource}.send(ctx, a.stdin, args, o)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.stdout, b.ID)
		if b.Replayed {
			fmt.Fprintln(a.stderr, "This batch was submitted before, with the same idempotency key.")
		}
		if !wait {
			return nil
		}
		return a.await(ctx, a.stderr, api, b)
	})
	return c
}

// readParams reads what --params says: JSON, or the name of a file of it behind an @.
func readParams(text string) (json.RawMessage, error) {
	if text == "" {
		return nil, nil
	}
	return readJSON("--params", text)
}

// sender is how each form of a submission is sent.
type sender[T any] struct {
	documents   func(ctx context.Context, paths []string, o client.BatchOptions) (T, error)
	ndjson, csv func(ctx context.Context, jobs io.Reader, o client.BatchOptions) (T, error)
	source      func(ctx context.Context, o client.BatchOptions) (T, error)
}

// send submits what the arguments name.
func (s sender[T]) send(ctx context.Context, stdin io.Reader, args []string, o client.BatchOptions) (none T, _ error) {
	switch {
	case o.Source != nil && len(args) > 0:
		return none, usagef("a batch with a source takes no files")
	case o.Source != nil:
		return s.source(ctx, o)
	case len(args) == 0:
		return none, usagef("name files or folders, a file of jobs, - for standard input, or a --source")
	}
	if !slices.ContainsFunc(args, isStream) {
		if o.Kind != "" && o.Kind != "summarize" && o.Kind != "pipeline" {
			return none, usagef("documents are for the kinds summarize and pipeline; jobs of kind %s come as NDJSON or CSV", o.Kind)
		}
		paths, err := files(args)
		if err != nil {
			return none, err
		}
		return s.documents(ctx, paths, o)
	}
	if len(args) > 1 {
		return none, usagef("one NDJSON or CSV file makes one batch: it can't come with other files")
	}
	if o.Kind == "" && within(args[0]) == ".csv" {
		o.Kind = "generate" // of the kinds, the one with a template
	}
	switch {
	case o.Kind == "":
		return none, usagef("--kind is required for NDJSON: summarize, generate, chat or pipeline")
	case args[0] == "-":
		return s.ndjson(ctx, stdin, o)
	}
	file, err := os.Open(args[0])
	if err != nil {
		return none, err
	}
	defer file.Close()
	o.Encoding = encodings[extension(args[0])]
	if within(args[0]) == ".csv" {
		return s.csv(ctx, file, o)
	}
	return s.ndjson(ctx, file, o)
}

// encodings are the Content-Encodings of compressed files, by their extension.
var encodings = map[string]string{".gz": "gzip", ".zst": "zstd"}

func extension(path string) string { return strings.ToLower(filepath.Ext(path)) }

// within is the extension of what is in a file that may be compressed.
func within(path string) string {
	if ext := extension(path); encodings[ext] != "" {
		return extension(path[:len(path)-len(ext)])
	}
	return extension(path)
}

// isStream reports whether a file holds jobs, and isn't a document.
func isStream(path string) bool {
	return path == "-" || slices.Contains([]string{".ndjson", ".jsonl", ".csv"}, within(path))
}

// files lists the files that paths name, those of folders in the order of their names.
func files(paths []string) ([]string, error) {
	var out []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			out = append(out, path)
			continue
		}
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, err
		}
		before := len(out)
		for _, e := range entries {
			if e.Type().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
				out = append(out, filepath.Join(path, e.Name()))
			}
		}
		if len(out) == before {
			return nil, fmt.Errorf("there are no documents in %s", path)
		}
	}
	return out, nil
}
