package command

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
	"batchwright/internal/process"
)

const (
	nightDocuments = 2000
	nightEdits     = nightDocuments / 100
	nightProvider  = "custom-nightly"
	nightModel     = "clerk-1"
	nightPrices    = "provider,model,valid_from,input_usd_per_mtok,output_usd_per_mtok,context_window,max_output_tokens\n" + nightProvider + "," + nightModel + ",2020-01-01,0.4,1.6,128000,16000\n"
	nightRoute     = `{"steps":[{"provider":"` + nightProvider + `","model":"` + nightModel + `","max_attempts":1},{"provider":"simulator","model":"sim-1"}]}`
	nightTemplate  = `{"system":"You are the archive's clerk. %s","user":"{{.document}}","variables":{"document":{"type":"string"}},"sampling":{"max_tokens":120}}`
)

func (a *app) demoNightly() *cobra.Command {
	return &cobra.Command{
		Use: "nightly", Short: "Run 2,000 documents for four nights: edits, an outage, another template, and what each cost", Args: cobra.NoArgs,
		Long: `Start everything in one process, with fresh data (or with DATABASE_URL and REDIS_URL), and a provider
on this machine. Run 2,000 documents, and run them again on three nights with 1 % of them edited: on
an ordinary night, while the provider is down, and with another template. Show for each night what
it called, what the cache answered, what that cost and saved, and what differs from the night before.`,
		RunE: a.run(func(ctx context.Context, _ []string) error {
			p := &nightClerk{}
			url, stop, err := p.serve()
			if err != nil {
				return err
			}
			defer stop()
			prices, err := os.CreateTemp("", "batchwright-prices-*.csv")
			if err != nil {
				return err
			}
			defer os.Remove(prices.Name())
			if _, err := prices.WriteString(nightPrices); err != nil {
				return err
			}
			if err := prices.Close(); err != nil {
				return err
			}
			env := map[string]string{"CUSTOM_PROVIDERS": "nightly", "CUSTOM_NIGHTLY_BASE_URL": url, "PRICES_FILE": prices.Name(), "PROVIDER_BREAKER_OFF": "true"}
			getenv := func(name string) string {
				if v, ok := env[name]; ok {
					return v
				}
				return a.getenv(name)
			}
			fmt.Fprintln(a.stdout, "Starting Postgres, Redis, the API, a worker and a provider that invents answers. No call leaves this machine.")
			o := process.DevOptions{Ephemeral: true, Addr: "127.0.0.1:0", Quiet: true, Once: true, Notify: a.notify}
			return process.Dev(ctx, getenv, a.log, o, func(ctx context.Context, r process.Running) error {
				api, err := client.New(r.APIURL, r.APIKey)
				if err != nil {
					return err
				}
				defer api.Close()
				n := &nightly{app: a, api: api, database: r.DatabaseURL, provider: p, id: strings.ToLower(rand.Text()[:8])}
				return n.run(ctx)
			})
		}),
	}
}

// nightly tells its story on standard output.
type nightly struct {
	*app
	api      *client.Client
	database string
	provider *nightClerk
	id       string // in every document: other runs' answers are not this one's
	template string // its name
	nights   []night
}

// night is one run.
type night struct {
	title   string
	batch   client.Batch
	saved   int64 // what the answers of the cache had cost, in micro-dollars
	summary client.DiffSummary
}

func (n *nightly) run(ctx context.Context) error {
	n.template = "archive-" + n.id
	if err := n.save(ctx, "Say in two sentences what the document is about."); err != nil {
		return err
	}
	first, err := n.api.SubmitNDJSON(ctx, n.documents(), client.BatchOptions{Kind: "generate", Template: n.template, Route: nightRoute, Name: "night 1"})
	if err != nil {
		return err
	}
	steps := []struct {
		title   string
		prepare func() error
		options client.RerunOptions
	}{
		{title: "night 2, 1 % edited"},
		{title: "night 3, 1 % edited, the provider is down", prepare: func() error { n.provider.down.Store(true); return nil }},
		{title: "night 4, 1 % edited, another template", prepare: func() error {
			n.provider.down.Store(false)
			return n.save(ctx, "Say in one sentence what the document is about, for the index.")
		}, options: client.RerunOptions{Template: "latest"}},
	}
	if err := n.ended(ctx, "night 1, every document", first); err != nil {
		return err
	}
	for i, s := range steps {
		if s.prepare != nil {
			if err := s.prepare(); err != nil {
				return err
			}
		}
		s.options.Name, s.options.Changes = fmt.Sprintf("night %d", i+2), n.edits(i)
		b, err := n.api.Rerun(ctx, n.nights[i].batch.ID, s.options)
		if err != nil {
			return err
		}
		if err := n.ended(ctx, s.title, b); err != nil {
			return err
		}
	}
	return errors.Join(n.show(ctx), n.check())
}

func (n *nightly) save(ctx context.Context, task string) error {
	_, err := n.api.SaveTemplate(ctx, n.template, json.RawMessage(fmt.Sprintf(nightTemplate, task)))
	return err
}

func nightLine(i int, text string) string {
	variables, _ := json.Marshal(map[string]string{"document": text}) // strings
	return fmt.Sprintf(`{"custom_id":"doc-%04d","variables":%s}`+"\n", i, variables)
}

func (n *nightly) document(i int) string {
	return fmt.Sprintf("Minutes %d of %s. ", i, n.id) + strings.Repeat(fmt.Sprintf("The board of house %d met and went through its letters, its bills and the weather. ", i%97), 6)
}

func (n *nightly) documents() io.Reader {
	var b strings.Builder
	for i := range nightDocuments {
		b.WriteString(nightLine(i, n.document(i)))
	}
	return strings.NewReader(b.String())
}

// edits are a hundredth of the documents, others each night.
func (n *nightly) edits(night int) io.Reader {
	var b strings.Builder
	for e := range nightEdits {
		i := 100*e + 10*night + 3
		b.WriteString(nightLine(i, n.document(i)+fmt.Sprintf("Added in night %d: the roof.", night+2)))
	}
	return strings.NewReader(b.String())
}

// ended follows a night's batch to its end and keeps its figures.
func (n *nightly) ended(ctx context.Context, title string, b client.Batch) error {
	b, err := n.api.Wait(ctx, b.ID)
	if err != nil {
		return err
	}
	if err := verdict(b); err != nil {
		return fmt.Errorf("demo nightly: %s: %w: %s", title, err, summary(b))
	}
	this := night{title: title, batch: b}
	_, rows, err := process.Query(ctx, n.database, fmt.Sprintf(
		`select coalesce(sum(answer_cost_microusd - cost_microusd), 0) from reports.jobs where batch_id = '%s' and cache_status in ('result_hit', 'coalesced')`, b.ID))
	if err == nil {
		this.saved, err = strconv.ParseInt(rows[0][0], 10, 64)
	}
	if err == nil && len(n.nights) > 0 {
		this.summary, err = n.api.DiffSummary(ctx, n.nights[len(n.nights)-1].batch.ID, b.ID)
	}
	n.nights = append(n.nights, this)
	return err
}

func (n *nightly) show(ctx context.Context) error {
	t := table{
		head:  []string{"night", "jobs", "calls", "result hits", "coalesced", "gateway hits", "misses", "cost", "saved", "time"},
		right: []bool{1: true, 2: true, 3: true, 4: true, 5: true, 6: true, 7: true, 8: true, 9: true},
	}
	for _, x := range n.nights {
		s := x.batch.Stats
		t.rows = append(t.rows, []string{x.title, number(x.batch.TotalJobs), number(s.Calls), number(s.Cache.ResultHit), number(s.Cache.Coalesced),
			number(s.Cache.GatewayHit), number(s.Cache.Miss),
			dollars(s.CostMicroUSD), dollars(&x.saved), seconds(took(x.batch))})
	}
	fmt.Fprintf(n.stdout, "\nEach night against the one before. Answers are invented, and costs notional.\n\n")
	if err := t.write(n.stdout, n.width(n.stdout)); err != nil {
		return err
	}
	fmt.Fprintln(n.stdout)
	for _, x := range n.nights[1:] {
		fmt.Fprintf(n.stdout, "%s\n  %s\n", x.title, diffLine(x.summary))
	}
	fmt.Fprintf(n.stdout, "\nOne of the documents that were edited in night 2 (batchwright diff --text):\n\n")
	for i, err := range n.api.Diff(ctx, n.nights[0].batch.ID, n.nights[1].batch.ID, "changed", true) {
		if err == nil {
			writeDiff(n.stdout, i)
		}
		return err
	}
	return nil
}

// check holds the nights to what they are to show.
func (n *nightly) check() error {
	cost := func(i int) int64 {
		if c := n.nights[i].batch.Stats.CostMicroUSD; c != nil {
			return *c
		}
		return -1
	}
	var problems []error
	want := func(ok bool, format string, a ...any) {
		if !ok {
			problems = append(problems, fmt.Errorf("demo nightly: "+format, a...))
		}
	}
	for i, calls := range []int64{nightDocuments, nightEdits, 2 * nightEdits, nightDocuments} { // each call while the provider is down goes to two
		s := n.nights[i].batch.Stats
		want(s.Calls == calls && s.CallsWithoutCost == 0, "%s had %d calls, %d of unknown cost; want %d", n.nights[i].title, s.Calls, s.CallsWithoutCost, calls)
	}
	want(cost(0) > 0 && 50*cost(1) <= cost(0), "night 2 cost %d micro-dollars and night 1 %d: more than 2 %%", cost(1), cost(0))
	for i, reasons := range []map[string]int64{
		{"input": nightEdits}, {"input": nightEdits, "answered_by": nightEdits}, {"input": nightEdits, "template": nightDocuments, "answered_by": nightEdits},
	} {
		got := n.nights[i+1].summary
		want(maps.Equal(got.Reasons, reasons) && got.Items == nightDocuments, "%s differs as %v, want %v", n.nights[i+1].title, got, reasons)
	}
	return errors.Join(problems...)
}

// nightClerk is a provider in the OpenAI form whose answers depend on what it is sent, and that can be told to be down.
type nightClerk struct {
	down atomic.Bool
}

// serve serves it on this machine; the URL is that of its API.
func (p *nightClerk) serve() (url string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	srv := &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends when it is closed
	}()
	return "http://" + l.Addr().String() + "/v1", func() { _ = srv.Close(); <-done }, nil
}

// ServeHTTP implements http.Handler.
func (p *nightClerk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil || p.down.Load() {
		http.Error(w, `{"error":{"message":"down for the night"}}`, http.StatusServiceUnavailable)
		return
	}
	words := []string{"accounts", "bridges", "council", "drainage", "elections", "ferries", "gardens", "harbour"}
	sum := crc32.ChecksumIEEE(body)
	text := "[invented] The document is about:"
	for i := range 4 {
		text += "\n- " + words[sum>>(3*i)%8]
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{ // a client that is gone can't be told
		"id": "x", "object": "chat.completion", "model": nightModel,
		"choices": []any{map[string]any{"index": 0, "finish_reason": "stop", "message": map[string]string{"role": "assistant", "content": text}}},
		"usage":   map[string]int{"prompt_tokens": len(body) / 4, "completion_tokens": len(text) / 4, "total_tokens": len(body)/4 + len(text)/4},
	})
}
