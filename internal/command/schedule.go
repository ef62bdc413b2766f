package command

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) schedule() *cobra.Command {
	return a.group("schedule", "Have batches run again and again",
		a.createSchedule(), a.listSchedules(), a.showSchedule(), a.setSchedule(), a.deleteSchedule(), a.runSchedule(), a.previewSchedule(), a.ticks())
}

// scheduleFlags are the fields of a schedule and of its batch. Only what is given is sent.
type scheduleFlags struct {
	o                        client.BatchOptions
	from                     sourceFlags
	params, inputsOf         string
	zone, starts, ends, name string
	cron, overlap, catchUp   string
	jitter                   time.Duration
	catchUpLimit             int32
	target, format           string // of the export
	enabled                  bool
	changed                  func(string) bool
}

func (s *scheduleFlags) define(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&s.cron, "cron", "", `when: "0 2 * * *", with seconds "30 0 2 * * *", @daily, or "@every 6h"`)
	f.StringVar(&s.zone, "time-zone", "", "IANA time zone whose clock counts; default UTC")
	f.StringVar(&s.name, "name", "", "name, for people")
	f.StringVar(&s.starts, "starts", "", "time (RFC 3339) before which nothing is due; none for none")
	f.StringVar(&s.ends, "ends", "", "time (RFC 3339) from which on nothing is due; none for none")
	f.DurationVar(&s.jitter, "jitter", 0, "start up to so much later than due")
	f.BoolVar(&s.enabled, "enabled", true, "whether what is due is run")
	f.StringVar(&s.overlap, "overlap", "", "while an earlier batch runs: skip (default), queue or cancel_older")
	f.StringVar(&s.catchUp, "catch-up", "", "ticks that were missed and run late: none, last (default) or all")
	f.Int32Var(&s.catchUpLimit, "catch-up-limit", 0, "how many all runs at most; default 10")
	f.StringVar(&s.o.Kind, "kind", "", "summarize, generate, chat or pipeline")
	f.StringVar(&s.o.Route, "route", "", "stored route, chain such as openai:gpt-4.1-mini,local/extractive, or JSON")
	f.StringVar(&s.o.Template, "template", "", "template, as NAME (the latest version at each run) or NAME@VERSION")
	f.StringVar(&s.params, "params", "", "options of the kind, a JSON object, or @FILE with one")
	f.StringVar(&s.o.OnInvalid, "on-invalid", "", "refuse (default) or skip")
	f.StringVar(&s.o.Cache, "cache", "", "use (default), refresh or off")
	f.StringToStringVar(&s.o.Metadata, "metadata", nil, "labels, as KEY=VALUE,...")
	f.StringVar(&s.inputsOf, "inputs-of", "", "batch whose inputs are run, instead of JOBS.ndjson")
	f.StringVar(&s.target, "export-target", "", "URL of a file for the results of each run, below one that the server's EXPORT_TARGETS allows; none for none")
	f.StringVar(&s.format, "export-format", "parquet", "its format: csv, ndjson or parquet")
	s.from.define(c)
	s.changed = f.Changed
}

// fields are those that were given, with a batch if anything of it or its jobs were.
func (s *scheduleFlags) fields(jobs json.RawMessage) (map[string]any, error) {
	out := map[string]any{}
	for flag, v := range map[string]struct {
		field string
		value any
	}{
		"cron": {"cron", s.cron}, "time-zone": {"time_zone", s.zone}, "name": {"name", s.name}, "jitter": {"jitter_seconds", int(s.jitter.Seconds())},
		"enabled": {"enabled", s.enabled}, "overlap": {"overlap", s.overlap}, "catch-up": {"catch_up", s.catchUp},
		"catch-up-limit": {"catch_up_limit", s.catchUpLimit},
	} {
		if s.changed(flag) {
			out[v.field] = v.value
		}
	}
	for flag, text := range map[string]string{"starts": s.starts, "ends": s.ends} {
		if !s.changed(flag) {
			continue
		}
		if text == "none" {
			out[flag+"_at"] = nil
			continue
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return nil, usagef("--%s: want a time such as 2026-12-24T18:00:00Z, or none", flag)
		}
		out[flag+"_at"] = at
	}
	switch {
	case !s.changed("export-target"):
		if s.changed("export-format") {
			return nil, usagef("--export-format goes with --export-target")
		}
	case s.target == "none":
		out["export"] = nil
	default:
		out["export"] = client.ExportOptions{Format: s.format, Target: s.target}
	}
	params, err := readParams(s.params)
	if err != nil {
		return nil, err
	}
	batch := map[string]any{}
	for flag, v := range map[string]struct {
		field string
		value any
	}{
		"kind": {"kind", s.o.Kind}, "template": {"template", s.o.Template}, "params": {"params", params}, "metadata": {"metadata", s.o.Metadata},
		"on-invalid": {"on_invalid", s.o.OnInvalid}, "cache": {"cache", s.o.Cache}, "inputs-of": {"inputs_of", s.inputsOf}, "route": {"route", routeField(s.o.Route)},
	} {
		if s.changed(flag) {
			batch[v.field] = v.value
		}
	}
	if jobs != nil {
		batch["jobs"] = jobs
	}
	from, err := s.from.source()
	if err != nil {
		return nil, err
	}
	if from != nil {
		batch["source"] = from
	}
	if len(batch) > 0 {
		out["batch"] = batch
	}
	return out, nil
}

// routeField is a route as the API takes it: a string, or the object that it spells.
func routeField(route string) any {
	if text := strings.TrimSpace(route); strings.HasPrefix(text, "{") && json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	return route
}

// jobList reads NDJSON into a JSON list; nil without a file.
func (a *app) jobList(args []string) (json.RawMessage, error) {
	if len(args) == 0 {
		return nil, nil
	}
	in := a.stdin
	if args[0] != "-" {
		file, err := os.Open(args[0])
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	list := []byte("[")
	lines := bufio.NewReader(in)
	for n := 1; ; n++ {
		line, err := lines.ReadBytes('\n')
		if line = bytes.TrimSpace(line); len(line) > 0 {
			if !json.Valid(line) {
				return nil, fmt.Errorf("line %d of %s is not JSON", n, args[0])
			}
			if len(list) > 1 {
				list = append(list, ',')
			}
			list = append(list, line...)
		}
		if err == io.EOF {
			return append(list, ']'), nil
		} else if err != nil {
			return nil, err
		}
	}
}

func (a *app) createSchedule() *cobra.Command {
	var s scheduleFlags
	c := &cobra.Command{
		Use: "create [JOBS.ndjson | -]", Short: "Make a schedule, and print its id", Args: cobra.MaximumNArgs(1),
		Long: `Make a schedule, and print its id. Its jobs are one JSON object a line, in a file or from standard
input, with --inputs-of those of a batch that was submitted before, or with --source or
--source-query what the server finds there at each run.`,
		Example: `  batchwright schedule create --cron "0 2 * * *" --time-zone Europe/Berlin --kind generate --template product-blurb --route nightly products.ndjson
  batchwright schedule create --cron "@every 6h" --kind summarize --route local/extractive --inputs-of 0199...
  batchwright schedule create --cron @daily --kind summarize --route nightly --source 's3://docs/reports/**'`,
	}
	s.define(c)
	for _, flag := range []string{"cron", "kind", "route"} {
		if err := c.MarkFlagRequired(flag); err != nil {
			panic(err) // the flags are a few lines above
		}
	}
	c.RunE = a.talk(func(ctx context.Context, api *client.Client, args []string) error {
		jobs, err := a.jobList(args)
		if err != nil {
			return err
		}
		fields, err := s.fields(jobs)
		if err != nil {
			return err
		}
		made, err := api.CreateSchedule(ctx, fields)
		if err == nil {
			fmt.Fprintln(a.stdout, made.ID)
		}
		return err
	})
	return c
}

func (a *app) setSchedule() *cobra.Command {
	var s scheduleFlags
	c := &cobra.Command{
		Use: "set SCHEDULE [JOBS.ndjson | -]", Short: "Change a schedule", Args: cobra.RangeArgs(1, 2),
		Long: `Change what is given of a schedule; the rest stays. Options of the batch replace all of them, with
its jobs.`,
		Example: "  batchwright schedule set 0199... --enabled=false",
	}
	s.define(c)
	c.RunE = a.talk(func(ctx context.Context, api *client.Client, args []string) error {
		jobs, err := a.jobList(args[1:])
		if err != nil {
			return err
		}
		fields, err := s.fields(jobs)
		if err != nil {
			return err
		}
		if len(fields) == 0 {
			return usagef("nothing is to be changed")
		}
		changed, err := api.UpdateSchedule(ctx, args[0], fields)
		if err == nil {
			a.printSchedule(changed)
		}
		return err
	})
	return c
}

func (a *app) listSchedules() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List schedules, newest first", Args: cobra.NoArgs,
		RunE: a.talk(func(ctx context.Context, api *client.Client, _ []string) error {
			for s, err := range api.Schedules(ctx) {
				if err != nil {
					return err
				}
				a.printSchedule(s)
			}
			return nil
		}),
	}
}

func (a *app) printSchedule(s client.Schedule) {
	state := "disabled"
	switch {
	case s.NextDueAt == nil:
		state = "ended"
	case s.Enabled:
		state = "next " + s.NextDueAt.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(a.stdout, "%s  %s  %s  %s  %s\n", s.ID, clean(s.Cron), clean(s.TimeZone), state, clean(cmp.Or(s.Name, "-")))
}

func (a *app) showSchedule() *cobra.Command {
	return &cobra.Command{
		Use: "show SCHEDULE", Short: "Print a schedule as JSON", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			s, err := api.Schedule(ctx, args[0])
			if err != nil {
				return err
			}
			e := json.NewEncoder(a.stdout)
			e.SetIndent("", "  ")
			e.SetEscapeHTML(false)
			return e.Encode(s)
		}),
	}
}

func (a *app) deleteSchedule() *cobra.Command {
	return &cobra.Command{
		Use: "delete SCHEDULE", Short: "Remove a schedule and its ticks; its batches stay", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			return api.DeleteSchedule(ctx, args[0])
		}),
	}
}

func (a *app) runSchedule() *cobra.Command {
	var key string
	c := &cobra.Command{
		Use: "run SCHEDULE", Short: "Run a schedule now", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			t, err := api.RunSchedule(ctx, args[0], key)
			if err == nil && t.Replayed {
				fmt.Fprintln(a.stderr, "This run was asked for before, with the same idempotency key.")
			}
			return a.printTick(t, err)
		}),
	}
	c.Flags().StringVar(&key, "idempotency-key", "", "makes a repeat safe: the same key is the same run")
	return c
}

func (a *app) previewSchedule() *cobra.Command {
	var n int
	var cron, zone string
	c := &cobra.Command{
		Use: "preview [SCHEDULE]", Short: "List when a schedule, or --cron, is due next", Args: cobra.MaximumNArgs(1),
		Example: `  batchwright schedule preview --cron "30 2 * * *" --time-zone Europe/Berlin -n 5`,
	}
	c.Flags().IntVarP(&n, "count", "n", 10, "how many times")
	c.Flags().StringVar(&cron, "cron", "", "expression of a schedule that isn't saved")
	c.Flags().StringVar(&zone, "time-zone", "", "its time zone; default UTC")
	c.RunE = a.talk(func(ctx context.Context, api *client.Client, args []string) (err error) {
		var times []client.DueTime
		switch {
		case (cron == "") == (len(args) == 0):
			return usagef("name a schedule, or give --cron")
		case cron != "":
			times, err = api.PreviewCron(ctx, cron, zone, n)
		default:
			times, err = api.PreviewSchedule(ctx, args[0], n)
		}
		for _, t := range times {
			late := ""
			if d := t.StartAt.Sub(t.DueAt); d > 0 {
				late = fmt.Sprintf("  started %s later", d)
			}
			fmt.Fprintf(a.stdout, "%s  %s%s\n", t.Local.Format(time.RFC3339), t.DueAt.UTC().Format(time.RFC3339), late)
		}
		return err
	})
	return c
}

func (a *app) ticks() *cobra.Command {
	var state string
	c := &cobra.Command{
		Use: "ticks SCHEDULE", Short: "List what came of each time that a schedule was due, the latest first", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			for t, err := range api.Ticks(ctx, args[0], state) {
				if err := a.printTick(t, err); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	c.Flags().StringVar(&state, "state", "", "only ticks that are pending, starting, running, ran, skipped, missed or failed")
	return c
}

func (a *app) printTick(t client.Tick, err error) error {
	if err != nil {
		return err
	}
	batch, why := "-", ""
	if t.BatchID != nil {
		batch = *t.BatchID
		if t.BatchState != nil {
			batch += " " + clean(*t.BatchState)
		}
	}
	if t.Manual {
		why = "  asked for"
	}
	if t.Reason != nil {
		why += "  " + clean(*t.Reason)
	}
	if t.Export != nil {
		why += "  export " + clean(t.Export.State)
		if t.Export.Error != nil {
			why += ": " + clean(*t.Export.Error)
		}
	}
	_, err = fmt.Fprintf(a.stdout, "%s  %s  %s%s\n", t.DueAt.UTC().Format(time.RFC3339), t.State, batch, why)
	return err
}
