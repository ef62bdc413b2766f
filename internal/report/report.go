// Package report turns what people ask of the schema reports into SQL over its views, and rows into files.
//
// Nothing of a request gets into the text of a statement but names that stand in the table below; values travel as arguments.
package report

import (
	"fmt"
	"slices"
	"strings"
)

// Kinds of values. A money column is an integer of millionths of a US dollar.
const (
	Text      = "text"
	Integer   = "integer"
	Boolean   = "boolean"
	Timestamp = "timestamp" // RFC 3339, UTC
	Date      = "date"      // UTC
)

// Column is a column of a report.
type Column struct {
	Name, Type string
	Sum        bool   // added up when rows are grouped
	max        bool   // of a Sum: the greatest is taken instead
	sql        string // what selects it in a grouped report; default the column itself, or its sum
	cast       bool   // is of a type that reads as text
}

// Report is a view with what may be asked of it.
type Report struct {
	Name, Description string
	Columns           []Column // without the project's, which is always the caller's
	Time              string   // the column that from and to restrict
	Grouped           bool     // takes by

	view    string
	by      []string // grouping when none is asked for; nil for the view's rows as they are
	around  string   // for Grouped: prepares rows from the filtered and grouped ones
	apart   string   // a column whose values are never added up: a query groups by it or restricts it to one
	ordered []string // sort when none is asked for
}

// Error is a refusal: which parameter is wrong, and what it may be.
type Error struct{ Field, Message string }

func (e *Error) Error() string { return "report: " + e.Field + ": " + e.Message }

func refuse(field, format string, args ...any) error {
	return &Error{field, fmt.Sprintf(format, args...)}
}

const costs = " | calls failed_calls uncertain_calls unpriced_calls gateway_hits input_tokens cached_input_tokens output_tokens cost_microusd reserved_microusd"

var reports = []Report{
	{
		Name: "jobs", Description: "One row a job, without its answer.", Time: "submitted_at", view: "reports.jobs", ordered: []string{"batch_id", "seq"},
		Columns: columns(`batch_id:uuid batch kind seq:integer custom_id job_id state cache_status attempts:integer calls:integer provider model
			input_tokens:integer cached_input_tokens:integer output_tokens:integer cost_microusd:integer answer_cost_microusd:integer error_class
			error_message submitted_at:timestamp finished_at:timestamp repaired`),
	},
	{
		Name: "calls", Description: "The call ledger: one row a send.", Time: "submitted_at", view: "reports.calls",
		ordered: []string{"batch_id", "seq", "ticket_id", "number"},
		Columns: columns(`batch_id:uuid batch kind seq:integer job_id ticket_id:integer number:integer state late:boolean step:integer provider model
			answered_by error_class http_status:integer finish_reason gateway_cache_status gateway_log_id input_tokens:integer
			cached_input_tokens:integer cache_write_tokens:integer output_tokens:integer cost_microusd:integer reserved_microusd:integer
			latency_ms:integer submitted_at:timestamp started_at:timestamp settled_at:timestamp purpose stage`),
	},
	{
		Name: "batches", Description: "Batches with their counts.", Time: "created_at", view: "reports.batches", ordered: []string{"batch_id"}, Grouped: true,
		Columns: columns(`batch_id:uuid name kind state template template_version:integer route route_version:integer metadata:json
			created_at:timestamp started_at:timestamp finished_at:timestamp
			| total_jobs succeeded_jobs failed_jobs cancelled_jobs result_hits coalesced gateway_hits misses bypassed calls uncertain_calls
			unpriced_calls input_tokens cached_input_tokens output_tokens cost_microusd`),
	},
	{
		Name: "daily_costs", Description: "Calls, tokens and money by day, kind, provider and model.", Time: "day", view: "reports.daily_costs",
		ordered: []string{"day", "kind", "provider", "model"}, Grouped: true, Columns: columns("day:date kind provider model" + costs),
	},
	{
		Name: "hourly_costs", Description: "Calls, tokens and money by hour, API key, template, route, provider and model.", Time: "hour",
		view: "reports.hourly_costs", ordered: []string{"hour"}, Grouped: true,
		Columns: columns(`hour:timestamp day:date kind api_key_id:uuid api_key template template_version:integer route route_version:integer
			provider model` + costs),
	},
	{
		Name: "tag_costs", Description: "Calls, tokens and money by day and label of the batch. A batch with two labels counts under each.", Time: "day",
		view: "reports.tag_costs", ordered: []string{"day", "tag", "value"}, Grouped: true, apart: "tag",
		Columns: columns(`day:date tag value kind provider model | calls unpriced_calls input_tokens cached_input_tokens output_tokens cost_microusd`),
	},
	{
		Name: "cache_effectiveness", Description: "Jobs by cache verdict, by day of submission, template and route.", Time: "day",
		view: "reports.cache_effectiveness", ordered: []string{"day"}, Grouped: true,
		Columns: columns(`day:date kind template template_version:integer route route_version:integer
			| batches jobs result_hits coalesced gateway_hits misses bypassed calls input_tokens cached_input_tokens`),
	},
	{
		Name: "latencies", Description: "Percentiles of the latency of providers' good answers, to within 2.5 %.", Time: "day",
		view: "reports.latency_histogram", by: []string{"day", "kind", "provider", "model"}, ordered: []string{"day", "kind", "provider", "model"}, Grouped: true,
		Columns: append(columns("day:date kind provider model | calls"), percentile("p50_ms", "0.5"), percentile("p90_ms", "0.9"),
			percentile("p95_ms", "0.95"), percentile("p99_ms", "0.99"), Column{Name: "max_ms", Type: Integer, Sum: true, sql: "max(latency_ms)"}),
		around: `select *, sum(calls) over (partition by %[1]s order by latency_ms) as upto, sum(calls) over (partition by %[1]s) as total
			from (select %[1]s, latency_ms, sum(calls)::bigint as calls from %[2]s group by %[1]s, latency_ms) h`,
	},
	{
		Name: "latency_histogram", Description: "Providers' good answers by latency, in steps of 5 %.", Time: "day", view: "reports.latency_histogram",
		ordered: []string{"day", "kind", "provider", "model", "latency_ms"}, Grouped: true, Columns: columns("day:date kind provider model latency_ms:integer | calls"),
	},
	{
		Name: "savings", Description: "What batches would have cost more without each cache. One cache hides what another would have saved, so the kinds are never to be added up.",
		Time: "day", view: "reports.savings", ordered: []string{"day", "batch_id", "saving", "provider", "model"}, Grouped: true, apart: "saving",
		Columns: columns("batch_id:uuid batch day:date saving provider model | uses unknown input_tokens output_tokens saved_microusd"),
	},
	{
		Name: "cost_drift", Description: "Costs of the call ledger beside those in the log of our own gateway, in billionths of a US dollar.", Time: "day",
		view: "reports.cost_drift", ordered: []string{"day", "provider", "model"}, Grouped: true,
		Columns: columns(`day:date provider model
			| calls unlogged_calls unknown_calls compared_calls cost_nanousd gateway_cost_nanousd drift_nanousd`),
	},
	{
		Name: "schedule_runs", Description: "Each time that a schedule was due: what came of it, how late, and what its batch cost.", Time: "due_at",
		view: "reports.schedule_runs", ordered: []string{"due_at", "schedule_id"}, Grouped: true,
		Columns: columns(`schedule_id:uuid schedule due_at:timestamp day:date manual:boolean state reason attempts:integer start_at:timestamp ended_at:timestamp
			batch_id:uuid batch_state submitted_at:timestamp finished_at:timestamp
			| ticks batches late_ms:max total_jobs succeeded_jobs failed_jobs result_hits coalesced gateway_hits calls unpriced_calls
			input_tokens cached_input_tokens output_tokens cost_microusd`),
	},
	{
		Name: "failures", Description: "Failures by class, of calls and of jobs, which are never to be added up.", Time: "day", view: "reports.failures",
		ordered: []string{"day", "scope", "error_class"}, Grouped: true, apart: "scope",
		Columns: columns(`scope day:date kind error_class provider model | failures`),
	},
	{
		Name: "forecast_accuracy", Description: "Finished batches: what their forecast expected beside what came.", Time: "finished_at", view: "reports.forecast_accuracy",
		ordered: []string{"finished_at"}, Grouped: true,
		Columns: columns(`batch_id:uuid batch kind state template template_version:integer created_at:timestamp made_at:timestamp finished_at:timestamp
			history_batches:integer within_p90:boolean cost_percent:integer
			| jobs result_hits calls_p50 calls_p90 calls input_tokens_p50 input_tokens_p90 input_tokens cached_input_tokens_p50 cached_input_tokens_p90
			cached_input_tokens output_tokens_p50 output_tokens_p90 output_tokens cost_microusd_p50 cost_microusd_p90 cost_microusd
			duration_ms_p50 duration_ms_p90 duration_ms`),
	},
	{
		Name: "ledger_check", Description: "What contradicts itself in the ledger: no rows when it is sound. Takes seconds a million jobs unless restricted to a batch.",
		view: "reports.ledger_check", ordered: []string{"kind", "batch_id", "seq"},
		Columns: columns(`kind batch_id:uuid seq:integer budget_id:uuid detail`),
	},
}

// columns reads "name:type ... | sum ...". Text is the default type; of a sum, max stands for its greatest value.
func columns(spec string) (out []Column) {
	sum := false
	for f := range strings.FieldsSeq(spec) {
		if f == "|" {
			sum = true
			continue
		}
		name, kind, _ := strings.Cut(f, ":")
		c := Column{Name: name, Type: kind, Sum: sum}
		switch {
		case sum:
			c.Type, c.max = Integer, kind == "max"
		case kind == "":
			c.Type = Text
		case kind == "uuid" || kind == "json":
			c.Type, c.cast = Text, true
		}
		out = append(out, c)
	}
	return out
}

func percentile(name, share string) Column {
	return Column{Name: name, Type: Integer, Sum: true, sql: "min(latency_ms) filter (where upto >= total * " + share + ")"}
}

// All lists the reports.
func All() []Report { return reports }

// Find returns the report with this name.
func Find(name string) (Report, bool) {
	i := slices.IndexFunc(reports, func(r Report) bool { return r.Name == name })
	if i < 0 {
		return Report{}, false
	}
	return reports[i], true
}

func (r Report) column(name string) (Column, bool) {
	i := slices.IndexFunc(r.Columns, func(c Column) bool { return c.Name == name })
	if i < 0 {
		return Column{}, false
	}
	return r.Columns[i], true
}

// names lists columns for people.
func (r Report) names(which func(Column) bool) string {
	var out []string
	for _, c := range r.Columns {
		if which(c) {
			out = append(out, c.Name)
		}
	}
	return strings.Join(out, ", ")
}
