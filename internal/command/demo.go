package command

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
	"batchwright/internal/process"
)

const (
	demoSummarizer = "local/extractive"
	demoGenerator  = "simulator/sim-1"
	demoTemplate   = "templates/product-blurb.json"
	demoDocuments  = "documents"
	demoProducts   = "products.ndjson"
)

func (a *app) demo() *cobra.Command {
	var examples string
	c := &cobra.Command{
		Use: "demo", Short: "Run two batches twice: results, cache hits and costs, without keys or network", Args: cobra.NoArgs,
		Long: `Start everything in one process, with fresh data (or with DATABASE_URL and REDIS_URL). Submit the
example documents as a summarize batch and the example products as a generate batch over the REST
API, and show their results. Run both again, check that the second run is answered from the result
cache alone, and report costs and cache hits by SQL.`,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			dir, err := findExamples(examples)
			if err != nil {
				return err
			}
			fmt.Fprintln(a.stdout, "Starting Postgres, Redis, the API and a worker. No API key is needed, and no call leaves this machine.")
			o := process.DevOptions{Ephemeral: true, Addr: "127.0.0.1:0", Quiet: true, Once: true, Notify: a.notify}
			return process.Dev(ctx, a.getenv, a.log, o, func(ctx context.Context, r process.Running) error {
				api, err := client.New(r.APIURL, r.APIKey)
				if err != nil {
					return err
				}
				defer api.Close()
				d := &demo{app: a, api: api, database: r.DatabaseURL, dir: dir, id: strings.ToLower(rand.Text()[:6])}
				return d.run(ctx, r)
			})
		}),
	}
	c.Flags().StringVar(&examples, "examples", "", "folder with the examples (default: examples, here or in a folder above)")
	c.AddCommand(a.demoNightly())
	return c
}

// findExamples finds the folder with the examples, in the working directory or above it.
func findExamples(given string) (string, error) {
	if given != "" {
		if _, err := os.Stat(filepath.Join(given, demoProducts)); err != nil {
			return "", usagef("--examples: no %s in %s", demoProducts, given)
		}
		return given, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for up := "examples"; ; up = filepath.Join("..", up) {
		if _, err := os.Stat(filepath.Join(up, demoProducts)); err == nil {
			return up, nil
		}
		if dir == filepath.Dir(dir) {
			return "", usagef("there is no folder examples here or above; name it with --examples")
		}
		dir = filepath.Dir(dir)
	}
}

// demo tells its story on standard output.
type demo struct {
	*app
	api      *client.Client
	database string
	dir      string // of the examples
	id       string // label of this demo's batches
	template string // NAME@VERSION
}

// outcome is a batch that ended, with its results.
type outcome struct {
	title   string
	batch   client.Batch
	results []client.Result
}

func (d *demo) run(ctx context.Context, r process.Running) error {
	d.printf("API at %s, its contract at %s/openapi.json.\n", r.APIURL, r.APIURL)
	if err := d.saveTemplate(ctx); err != nil {
		return err
	}
	d.heading("First run")
	first, err := d.batches(ctx, "first")
	if err != nil {
		return err
	}
	d.printf("\nSummaries by %s, an extractive summarizer: it picks sentences of the document\nand uses no language model.\n\n", demoSummarizer)
	if err := d.table("document", first[0], len(first[0].results)); err != nil {
		return err
	}
	d.printf("\nProduct texts by %s: simulated. The words mean nothing; tokens and costs are\nnotional.\n\n", demoGenerator)
	if err := d.table("job", first[1], 10); err != nil {
		return err
	}
	d.heading("Second run, the same two batches")
	second, err := d.batches(ctx, "second")
	if err != nil {
		return err
	}
	d.printf("\n")
	if err := runs(first, second).write(d.stdout, d.width(d.stdout)); err != nil {
		return err
	}
	if err := errors.Join(succeeded(first), fromCache(first, second)); err != nil {
		return err
	}
	d.printf("\nThe second run took every answer from the result cache in Postgres: 100 %% hits, 0 calls, $0.\n")
	d.heading("Costs and cache, by SQL")
	if err := d.report(ctx); err != nil {
		return err
	}
	d.printf("\nDone. make dev starts the same and stays up; batchwright --help lists the commands.\n")
	return nil
}

func (d *demo) printf(format string, args ...any) { fmt.Fprintf(d.stdout, format, args...) }

func (d *demo) heading(text string) { d.printf("\n%s\n%s\n\n", text, strings.Repeat("=", len(text))) }

func (d *demo) saveTemplate(ctx context.Context) error {
	path := filepath.Join(d.dir, demoTemplate)
	t, err := d.definition(path)
	if err != nil {
		return err
	}
	saved, err := d.api.SaveTemplate(ctx, t.Name, t.Spec)
	if err != nil {
		return err
	}
	d.template = saved.Ref
	d.printf("Template %s saved from %s.\n", saved.Ref, path)
	return nil
}

// batches submits both batches and follows them to their ends. The titles are the same in both runs.
func (d *demo) batches(ctx context.Context, run string) ([]outcome, error) {
	folder, lines := filepath.Join(d.dir, demoDocuments), filepath.Join(d.dir, demoProducts)
	label := map[string]string{"demo": d.id}
	paths, err := files([]string{folder})
	if err != nil {
		return nil, err
	}
	summarize, err := d.api.SubmitDocuments(ctx, paths, client.BatchOptions{
		Kind: "summarize", Route: demoSummarizer, Name: "documents, " + run + " run", Metadata: label})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", folder, err)
	}
	file, err := os.Open(lines)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	generate, err := d.api.SubmitNDJSON(ctx, file, client.BatchOptions{
		Kind: "generate", Template: d.template, Route: demoGenerator, Name: "products, " + run + " run", Metadata: label})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", lines, err)
	}
	d.printf("POST /v1/batches  summarize, %s: %s of %s\n", demoSummarizer, plural(summarize.TotalJobs, "file", "files"), folder)
	d.printf("POST /v1/batches  generate, %s, %s: %s of %s\n\n", demoGenerator, d.template, plural(generate.TotalJobs, "line", "lines"), lines)

	out := []outcome{{title: "documents"}, {title: "products"}}
	ended, err := d.follow(ctx, d.stdout, d.api, []string{out[0].title, out[1].title}, []client.Batch{summarize, generate})
	if err != nil {
		return nil, err
	}
	for i, b := range ended {
		out[i].batch = b
		for r, err := range d.api.Results(ctx, b.ID, client.ResultOptions{}) {
			if err != nil {
				return nil, err
			}
			r.Raw = nil
			out[i].results = append(out[i].results, r)
		}
	}
	return out, nil
}

// table shows the first results of a batch, and the sums over all of them.
func (d *demo) table(what string, o outcome, most int) error {
	t := table{
		head:  []string{what, "first line", "tokens in", "out", "provider", "cache", "cost"},
		right: []bool{2: true, 3: true, 6: true},
		flex:  2, least: 12,
	}
	width := d.width(d.stdout)
	for i, r := range o.results {
		if i == most {
			break
		}
		t.rows = append(t.rows, []string{
			fit(clean(deref(r.CustomID, r.JobID)), max(16, min(width/4, 36))), answerLine(r), number(r.Usage.InputTokens), number(r.Usage.OutputTokens),
			deref(r.Provider, "-"), deref(r.CacheStatus, "-"), dollars(r.CostMicroUSD)})
	}
	s := o.batch.Stats
	t.total = []string{plural(o.batch.TotalJobs, "job", "jobs"), "", number(s.InputTokens), number(s.OutputTokens), "", "", dollars(s.CostMicroUSD)}
	if more := len(o.results) - len(t.rows); more > 0 {
		t.total[1] = fmt.Sprintf("(%d more not shown)", more)
	}
	return t.write(d.stdout, width)
}

// answerLine is the first line of an answer, without Markdown's marks, or why there is none.
func answerLine(r client.Result) string {
	if r.Error != nil {
		return clean(r.Status + ", " + r.Error.Class + ": " + r.Error.Message)
	}
	line := strings.TrimLeft(firstLine(r.Text()), "#> ")
	return cmp.Or(strings.ReplaceAll(line, "**", ""), r.Status)
}

func deref(s *string, otherwise string) string {
	if s == nil {
		return otherwise
	}
	return *s
}

// runs puts both runs side by side.
func runs(first, second []outcome) table {
	t := table{
		head:  []string{"batch", "run", "jobs", "result hits", "calls", "tokens in", "out", "cost", "time"},
		right: []bool{2: true, 3: true, 4: true, 5: true, 6: true, 7: true, 8: true},
	}
	for i := range first {
		for n, o := range []outcome{first[i], second[i]} {
			s := o.batch.Stats
			t.rows = append(t.rows, []string{
				o.title, []string{"first", "second"}[n], number(o.batch.TotalJobs), number(s.Cache.ResultHit), number(s.Calls),
				number(s.InputTokens), number(s.OutputTokens), dollars(s.CostMicroUSD), seconds(took(o.batch))})
		}
	}
	return t
}

// succeeded checks that every job of a run has an answer.
func succeeded(run []outcome) error {
	for _, o := range run {
		if verdict(o.batch) == nil {
			continue
		}
		for _, r := range o.results {
			if r.Error != nil {
				return fmt.Errorf("demo: %s: %s; the first failure is of %s: %s", o.title, summary(o.batch), deref(r.CustomID, r.JobID), r.Error.Message)
			}
		}
		return fmt.Errorf("demo: %s: %s", o.title, summary(o.batch))
	}
	return nil
}

// fromCache checks that the second run got the first one's answers, all of them out of the result cache.
func fromCache(first, second []outcome) error {
	for i, o := range second {
		s := o.batch.Stats
		if s.Cache.ResultHit != o.batch.TotalJobs || s.Calls != 0 || s.CostMicroUSD == nil || *s.CostMicroUSD != 0 {
			return fmt.Errorf("demo: the second run of %s should cost nothing, but had %s of %s, %s and cost %s", o.title,
				plural(s.Cache.ResultHit, "result hit", "result hits"), plural(o.batch.TotalJobs, "job", "jobs"), plural(s.Calls, "call", "calls"), dollars(s.CostMicroUSD))
		}
		if len(o.results) != len(first[i].results) {
			return fmt.Errorf("demo: the two runs of %s have %d and %d results", o.title, len(first[i].results), len(o.results))
		}
		for j, r := range o.results {
			if was := first[i].results[j]; string(was.Output) != string(r.Output) {
				return fmt.Errorf("demo: the second run's answer to %s differs from the first one's", deref(r.CustomID, r.JobID))
			}
		}
	}
	return nil
}

// queries are what an analyst would ask. The label tells this demo's batches from others in the same database.
var queries = []struct{ title, sql string }{
	{"What each batch cost, and where its answers came from:", `
select name, total_jobs as jobs, result_hits, coalesced, misses, calls,
       input_tokens as tokens_in, output_tokens as tokens_out, cost_microusd
from reports.batches
where metadata->>'demo' = '%s'
order by created_at`},
	{"What the cache saved, by verdict and model:", `
select j.kind, j.cache_status, j.provider, j.model, count(*) as jobs,
       sum(j.cost_microusd) as cost_microusd, sum(j.answer_cost_microusd - j.cost_microusd) as saved_microusd
from reports.jobs j join reports.batches b using (batch_id)
where b.metadata->>'demo' = '%s'
group by 1, 2, 3, 4
order by 1, 2, 3, 4`},
	{"What was spent by day, straight from the call ledger:", `
select day, kind, provider, model, calls, failed_calls, input_tokens as tokens_in, output_tokens as tokens_out, cost_microusd
from reports.daily_costs
where project = 'dev' and day >= current_date - 6
order by 1, 2, 3, 4`},
}

func (d *demo) report(ctx context.Context) error {
	for i, q := range queries {
		sql := strings.TrimSpace(strings.ReplaceAll(q.sql, "%s", d.id))
		head, rows, err := process.Query(ctx, d.database, sql)
		if err != nil {
			return fmt.Errorf("demo: report: %w", err)
		}
		if i > 0 {
			d.printf("\n")
		}
		d.printf("%s\n\n  %s;\n\n", q.title, strings.ReplaceAll(sql, "\n", "\n  "))
		if err := answerTable(head, rows).write(d.stdout, d.width(d.stdout)); err != nil {
			return err
		}
	}
	return nil
}

// answerTable shows what a query gave. Columns of numbers align to the right.
func answerTable(head []string, rows [][]string) table {
	t := table{head: head, rows: rows, right: make([]bool, len(head))}
	for i := range head {
		t.right[i] = len(rows) > 0
		for _, row := range rows {
			t.right[i] = t.right[i] && json.Valid([]byte(row[i])) && strings.Trim(row[i], "-0123456789.") == ""
		}
	}
	return t
}
