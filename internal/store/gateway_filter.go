package store

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// GatewayLogQuery picks requests of one gateway's log.
type GatewayLogQuery struct {
	Account, Gateway string
	Filters          []GatewayLogFilter // all must hold
	OrderBy          string             // one of [GatewayLogOrders]; default created_at
	Descending       bool
	Page, PerPage    int   // Page counts from 1; for lists
	Limit            int64 // for deletions; 0 is no limit
}

// GatewayLogOrders are the keys by which a log is sorted. What is equal is sorted by time, and what isn't known is last.
func GatewayLogOrders() []string {
	return []string{"created_at", "provider", "model", "model_type", "success", "cached", "cost", "tokens_in", "tokens_out", "duration", "feedback"}
}

// GatewayLogFilter is one condition on a request. Make it with [NewGatewayLogFilter].
type GatewayLogFilter struct {
	condition string // SQL with one %s, where the parameter goes
	param     any
}

// What filters may test: SQL, and the type that the values are read as.
type logKey struct{ expr, kind string }

var logKeys = map[string]logKey{
	"id":                    {"id", "uuid"},
	"created_at":            {"created_at", "time"},
	"request_content_type":  {"request_content_type", "text"},
	"response_content_type": {"response_content_type", "text"},
	"request_type":          {"request_type", "text"},
	"success":               {"success", "bool"},
	"cached":                {"cached", "bool"},
	"provider":              {"provider", "text"},
	"model":                 {"model", "text"},
	"model_type":            {"model_type", "text"},
	"cost":                  {"cost_nano_usd", "dollars"},
	"tokens":                {"(tokens_in + tokens_out)", "integer"},
	"tokens_in":             {"tokens_in", "integer"},
	"tokens_out":            {"tokens_out", "integer"},
	"duration":              {"duration_us", "milliseconds"},
	"feedback":              {"feedback", "feedback"},
	"event_id":              {"event_id", "text"},
	"metadata.key":          {"metadata", "keys"},
	"metadata.value":        {"metadata", "values"},
	"authentication":        {"authenticated", "bool"},
	"wholesale":             {"false", "bool"}, // nothing is billed through this gateway
	"compatibilityMode":     {"starts_with(path, 'compat/')", "bool"},
	"dlp_action":            {"dlp_action", "text"},
	"user_agent":            {"user_agent", "text"},
}

// Which kinds of key an operator goes with; "" is all. The last two are for the flat parameters that filters replaced.
var logOperators = map[string]string{
	"eq": "", "neq": "", "contains": "uuid text keys values",
	"lt": ordered, "gt": ordered, "lte": ordered, "gte": ordered,
}

const ordered = "time dollars integer milliseconds"

var compare = map[string]string{"lt": " < ", "gt": " > ", "lte": " <= ", "gte": " >= "}

// NewGatewayLogFilter reads a filter in Cloudflare's terms. Several values are alternatives for eq and contains; neq and the comparisons
// must hold for each. Text is compared exactly by eq and neq, and without regard to case by contains. The error is for people.
func NewGatewayLogFilter(key, operator string, values []string) (GatewayLogFilter, error) {
	k, ok := logKeys[key]
	if !ok {
		return GatewayLogFilter{}, fmt.Errorf("unknown key; known are %s", strings.Join(sortedLogKeys(), ", "))
	}
	if len(values) == 0 {
		return GatewayLogFilter{}, fmt.Errorf("the value is missing")
	}
	kinds, known := logOperators[operator]
	if !known {
		return GatewayLogFilter{}, fmt.Errorf("unknown operator; known are eq, neq, contains, lt, gt, lte and gte")
	}
	if kinds != "" && !slices.Contains(strings.Fields(kinds), k.kind) {
		return GatewayLogFilter{}, fmt.Errorf("the operator %s doesn't go with %s", operator, key)
	}
	if operator == "contains" {
		words := make([]string, len(values))
		for i, v := range values {
			words[i] = strings.ToLower(mend(v))
		}
		return GatewayLogFilter{condition: k.contains(), param: words}, nil
	}
	param, sqlType, err := k.read(values)
	if err != nil {
		return GatewayLogFilter{}, err
	}
	switch array := "%s::" + sqlType + "[]"; {
	case k.kind == "keys":
		return GatewayLogFilter{k.negate(operator, "metadata ?| "+array), param}, nil
	case k.kind == "values":
		return GatewayLogFilter{k.negate(operator, "exists (select from jsonb_each_text(metadata) m where m.value = any("+array+"))"), param}, nil
	case compare[operator] != "": // one value, because an index knows no "all"
		return GatewayLogFilter{k.expr + compare[operator] + "%s::" + sqlType, strictest(param, operator[0] == 'l')}, nil
	default:
		return GatewayLogFilter{k.negate(operator, k.expr+" = any("+array+")"), param}, nil
	}
}

// NewGatewayLogSearch matches requests that mention a text, in any case: Cloudflare doesn't say where its search looks.
func NewGatewayLogSearch(text string) GatewayLogFilter {
	return GatewayLogFilter{
		condition: "position(%s::text in lower(concat_ws(' ', id, provider, model, path, event_id, request_id, user_agent, metadata))) > 0",
		param:     strings.ToLower(mend(text)),
	}
}

// strictest is the value that decides a comparison with all.
func strictest(param any, lowest bool) any {
	switch list := param.(type) {
	case []time.Time:
		if lowest {
			return slices.MinFunc(list, time.Time.Compare)
		}
		return slices.MaxFunc(list, time.Time.Compare)
	case []int64:
		if lowest {
			return slices.Min(list)
		}
		return slices.Max(list)
	}
	return param // no other kind is ordered
}

func sortedLogKeys() []string {
	var keys []string
	for k := range logKeys {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// negate counts what isn't known as different.
func (k logKey) negate(operator, condition string) string {
	if operator == "neq" {
		return "(" + condition + ") is not true"
	}
	return condition
}

func (k logKey) contains() string {
	const words = "exists (select from unnest(%s::text[]) as w(word) where position(w.word in lower("
	switch k.kind {
	case "keys":
		return "exists (select from jsonb_each_text(metadata) m where " + words + "m.key)) > 0))"
	case "values":
		return "exists (select from jsonb_each_text(metadata) m where " + words + "m.value)) > 0))"
	case "uuid":
		return words + k.expr + "::text)) > 0)"
	default:
		return words + k.expr + ")) > 0)"
	}
}

// read turns values into a parameter, and names its type in SQL.
func (k logKey) read(values []string) (any, string, error) {
	switch k.kind {
	case "uuid":
		param, err := readAll(values, "a UUID", uuid.Parse)
		return param, "uuid", err
	case "time":
		param, err := readAll(values, "a time such as 2026-11-21T15:04:05Z", readTime)
		return param, "timestamptz", err
	case "bool":
		param, err := readAll(values, "true or false", readBool)
		return param, "bool", err
	case "dollars":
		param, err := readAll(values, "an amount in US dollars", func(s string) (int64, error) { return readScaled(s, 1e9) })
		return param, "bigint", err
	case "milliseconds":
		param, err := readAll(values, "a number of milliseconds", func(s string) (int64, error) { return readScaled(s, 1e3) })
		return param, "bigint", err
	case "integer":
		param, err := readAll(values, "a number", func(s string) (int64, error) { return readScaled(s, 1) })
		return param, "bigint", err
	case "feedback": // the list's filter says 0 where a log says -1
		param, err := readAll(values, "0, 1 or -1", readFeedback)
		return param, "smallint", err
	default:
		param, err := readAll(values, "text", func(s string) (string, error) { return mend(s), nil })
		return param, "text", err
	}
}

func readAll[T any](values []string, want string, read func(string) (T, error)) ([]T, error) {
	out := make([]T, len(values))
	for i, v := range values {
		var err error
		if out[i], err = read(v); err != nil {
			return nil, fmt.Errorf("value %d is not %s", i, want)
		}
	}
	return out, nil
}

func readTime(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t, err = time.Parse(time.DateOnly, s)
	}
	return t, err
}

// readBool takes what Cloudflare's dashboard and older clients send: words and digits.
func readBool(s string) (bool, error) {
	switch s {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, strconv.ErrSyntax
}

func readFeedback(s string) (int16, error) {
	switch s {
	case "1":
		return 1, nil
	case "0", "-1":
		return -1, nil
	}
	return 0, strconv.ErrSyntax
}

func readScaled(s string, scale float64) (int64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, err
	}
	f = math.Round(f * scale)
	if math.IsNaN(f) || math.Abs(f) >= math.MaxInt64 {
		return 0, strconv.ErrRange
	}
	return int64(f), nil
}

// where returns the conditions beyond the gateway's own, and all parameters so far.
func (q *GatewayLogQuery) where() (string, []any) {
	args := []any{q.Account, q.Gateway}
	var b strings.Builder
	for _, f := range q.Filters {
		args = append(args, f.param)
		fmt.Fprintf(&b, "\nand "+f.condition, "$"+strconv.Itoa(len(args)))
	}
	return b.String(), args
}

// page returns the order, and the part of it that is wanted.
func (q *GatewayLogQuery) page(args []any) (string, []any) {
	dir := " asc"
	if q.Descending {
		dir = " desc"
	}
	order := "created_at" + dir
	if q.OrderBy != "created_at" && slices.Contains(GatewayLogOrders(), q.OrderBy) {
		order = logKeys[q.OrderBy].expr + dir + " nulls last, " + order
	}
	n := len(args)
	args = append(slices.Clip(args), q.PerPage, (max(q.Page, 1)-1)*q.PerPage)
	return fmt.Sprintf("\norder by %s, id%s limit $%d offset $%d", order, dir, n+1, n+2), args
}
