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
	var params string
	var maxCost string
	var wait, dry bool
	c := &cobra.Command{
		Use:   "submit FILE... | JOBS.ndjson | -",
		Short: "Submit documents, or jobs as NDJSON, as a batch",
		Long: `Submit documents, or jobs as NDJSON, as a batch, and print its id.

Documents are files, or folders of which every file counts, but not the hidden ones and not those
of folders within. Each is one job of kind summarize. Jobs are one JSON object a line, in a file
that ends in .ndjson or .jsonl, or - for standard input. A file that ends in .gz or .zst behind
that is sent as it is.`,
		Example: `  batchwright submit --route local/extractive --wait examples/documents
  batchwright submit --kind generate --template product-blurb --route openai:gpt-4.1-mini examples/products.ndjson
  batchwright submit --dry-run --kind generate --template product-blurb --route openai:gpt-4.1-mini examples/products.ndjson
  produce-jobs | batchwright submit --kind chat --route nightly@3 -`,
		Args: cobra.MinimumNArgs(1),
	}
	f := c.Flags()
	f.StringVar(&o.Kind, "kind", "", "summarize, generate or chat (required for NDJSON; documents are summarized)")
	f.StringVar(&o.Route, "route", "", "stored route, chain such as openai:gpt-4.1-mini,local/extractive, or JSON (required)")
	f.StringVar(&o.Template, "template", "", "template, as NAME or NAME@VERSION")
	f.StringVar(&params, "params", "", "options of the kind, a JSON object")
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
		if params != "" {
			if o.Params = json.RawMessage(params); !json.Valid(o.Params) {
				return usagef("--params is not JSON")
			}
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
		b, err := send(a, args, o,
			func(paths []string) (client.Batch, error) { return api.SubmitDocuments(ctx, paths, o) },
			func(lines io.Reader, o client.BatchOptions) (client.Batch, error) {
				return api.SubmitNDJSON(ctx, lines, o)
			})
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

// send submits what the arguments name: documents, or jobs as lines.
func send[T any](a *app, args []string, o client.BatchOptions, documents func(paths []string) (T, error), jobs func(lines io.Reader, o client.BatchOptions) (T, error)) (none T, _ error) {
	if !slices.ContainsFunc(args, isNDJSON) {
		if o.Kind != "" && o.Kind != "summarize" {
			return none, usagef("documents are summarized; jobs of kind %s come as NDJSON", o.Kind)
		}
		paths, err := files(args)
		if err != nil {
			return none, err
		}
		return documents(paths)
	}
	switch {
	case len(args) > 1:
		return none, usagef("one NDJSON file makes one batch: it can't come with other files")
	case o.Kind == "":
		return none, usagef("--kind is required for NDJSON: summarize, generate or chat")
	case args[0] == "-":
		return jobs(a.stdin, o)
	}
	file, err := os.Open(args[0])
	if err != nil {
		return none, err
	}
	defer file.Close()
	o.Encoding = encodings[extension(args[0])]
	return jobs(file, o)
}

// encodings are the Content-Encodings of compressed files, by their extension.
var encodings = map[string]string{".gz": "gzip", ".zst": "zstd"}

func extension(path string) string { return strings.ToLower(filepath.Ext(path)) }

func isNDJSON(path string) bool {
	ext := extension(path)
	if encodings[ext] != "" {
		ext = extension(path[:len(path)-len(ext)])
	}
	return path == "-" || ext == ".ndjson" || ext == ".jsonl"
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
