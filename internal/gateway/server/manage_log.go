package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"batchwright/internal/store"
)

// logResult is how a request is shown in a list.
type logResult struct {
	ID                  string    `json:"id"`
	CreatedAt           time.Time `json:"created_at"`
	Provider            string    `json:"provider"`
	Model               string    `json:"model"`
	ModelType           string    `json:"model_type"`
	Path                string    `json:"path"`
	RequestType         string    `json:"request_type"`
	RequestContentType  string    `json:"request_content_type"`
	ResponseContentType string    `json:"response_content_type"`
	StatusCode          int       `json:"status_code"`
	Success             bool      `json:"success"`
	Cached              bool      `json:"cached"`
	Duration            int64     `json:"duration"` // milliseconds
	TokensIn            int64     `json:"tokens_in"`
	TokensOut           int64     `json:"tokens_out"`
	Cost                *float64  `json:"cost,omitempty"` // US dollars; missing when unknown
	CustomCost          bool      `json:"custom_cost"`
	Metadata            string    `json:"metadata,omitempty"` // an object, as a string: so do Cloudflare's types have it
	Step                int       `json:"step"`

	// Beyond Cloudflare's row, from what its filters can test and its patch can set.
	EventID        string   `json:"event_id"`
	RequestID      string   `json:"request_id"`
	UserAgent      string   `json:"user_agent"`
	Authentication bool     `json:"authentication"`
	Streamed       bool     `json:"streamed"`
	DLPAction      string   `json:"dlp_action,omitempty"`
	Feedback       *int     `json:"feedback"`
	Score          *float64 `json:"score"`
}

func showLog(l store.GatewayLog) logResult {
	r := logResult{l.ID.String(), l.CreatedAt.UTC(), l.Provider, l.Model, l.ModelType, l.Path, l.RequestType, l.RequestContentType,
		l.ResponseContentType, l.StatusCode, l.Success, l.Cached, l.Duration.Round(time.Millisecond).Milliseconds(), l.TokensIn, l.TokensOut, nil,
		l.CustomCost, string(l.Metadata), l.Step, l.EventID, l.RequestID, l.UserAgent, l.Authenticated, l.Streamed, l.DLPAction, l.Feedback, l.Score}
	r.Cost = dollars(l.CostNanoUSD)
	return r
}

func dollars(nano *int64) *float64 {
	if nano == nil {
		return nil
	}
	return new(float64(*nano) / 1e9)
}

// logInfo is about a page of the log, with the bounds of all pages.
type logInfo struct {
	resultInfo
	MinCost        *float64 `json:"min_cost"`
	MaxCost        *float64 `json:"max_cost"`
	MinDuration    *float64 `json:"min_duration"` // milliseconds
	MaxDuration    *float64 `json:"max_duration"`
	MinTokensIn    *int64   `json:"min_tokens_in"`
	MaxTokensIn    *int64   `json:"max_tokens_in"`
	MinTokensOut   *int64   `json:"min_tokens_out"`
	MaxTokensOut   *int64   `json:"max_tokens_out"`
	MinTotalTokens *int64   `json:"min_total_tokens"`
	MaxTotalTokens *int64   `json:"max_total_tokens"`
}

func milliseconds(micro *int64) *float64 {
	if micro == nil {
		return nil
	}
	return new(float64(*micro) / 1e3)
}

// maxLogPage is more than Cloudflare's page holds: a harvest of a long log takes fewer requests.
const maxLogPage = 1000

func (m *management) listLogs(c *call) (*answer, error) {
	page, perPage, found := c.page(maxLogPage)
	q, more := c.logQuery("page", "per_page", "meta_info")
	if found = append(found, more...); len(found) > 0 {
		return nil, invalidCall(found...)
	}
	if _, err := m.find(c); err != nil {
		return nil, err
	}
	q.Page, q.PerPage = page, perPage
	p, err := m.db.GatewayLogs(c.Context(), q)
	if err != nil {
		return nil, err
	}
	results := make([]logResult, len(p.Logs))
	for i, l := range p.Logs {
		results[i] = showLog(l)
	}
	t := p.Totals
	return &answer{Result: results, Info: logInfo{infoOf(page, perPage, len(results), int(t.Count)), dollars(t.MinCost), dollars(t.MaxCost),
		milliseconds(t.MinDuration), milliseconds(t.MaxDuration), t.MinTokensIn, t.MaxTokensIn, t.MinTokensOut, t.MaxTokensOut,
		t.MinTotalTokens, t.MaxTotalTokens}}, nil
}

// deleteLogs deletes what the filters match, up to the limit. One of the two must be there: nobody deletes a whole log by leaving
// something out.
func (m *management) deleteLogs(c *call) (*answer, error) {
	q, found := c.logQuery("limit")
	limit := c.URL.Query().Get("limit")
	if limit != "" {
		n, err := strconv.ParseInt(limit, 10, 64)
		if err != nil || n < 1 {
			found = append(found, Problem{"limit", "must be a positive number"})
		}
		q.Limit = n
	}
	if limit == "" && len(q.Filters) == 0 && len(found) == 0 {
		found = append(found, Problem{"filters", "or limit is required"})
	}
	if len(found) > 0 {
		return nil, invalidCall(found...)
	}
	if _, err := m.find(c); err != nil {
		return nil, err
	}
	n, err := m.db.DeleteGatewayLogs(c.Context(), q)
	if err != nil {
		return nil, err
	}
	return &answer{Result: map[string]int64{"deleted": n}}, nil
}

// The flat parameters that filters replaced.
var flatLogFilters = map[string][2]string{
	"start_date": {"created_at", "gte"}, "end_date": {"created_at", "lte"},
	"success": {"success", "eq"}, "cached": {"cached", "eq"}, "feedback": {"feedback", "eq"},
	"provider": {"provider", "eq"}, "model": {"model", "eq"}, "model_type": {"model_type", "eq"},
	"request_content_type": {"request_content_type", "eq"}, "response_content_type": {"response_content_type", "eq"},
	"min_cost": {"cost", "gte"}, "max_cost": {"cost", "lte"}, "min_duration": {"duration", "gte"}, "max_duration": {"duration", "lte"},
	"min_tokens_in": {"tokens_in", "gte"}, "max_tokens_in": {"tokens_in", "lte"}, "min_tokens_out": {"tokens_out", "gte"},
	"max_tokens_out": {"tokens_out", "lte"}, "min_total_tokens": {"tokens", "gte"}, "max_total_tokens": {"tokens", "lte"},
}

// logQuery reads filters and order from a URL. A parameter that isn't known is an error, because ignoring it would widen the query.
func (c *call) logQuery(known ...string) (store.GatewayLogQuery, []Problem) {
	q := store.GatewayLogQuery{Account: c.account, Gateway: c.gateway, Descending: true}
	params := c.URL.Query()
	filters, found := readLogFilters(params)
	q.Filters = filters
	for _, name := range sortedParams(params) {
		value := params.Get(name)
		flat, isFlat := flatLogFilters[name]
		switch {
		case isFlat:
			f, err := store.NewGatewayLogFilter(flat[0], flat[1], params[name])
			if err != nil {
				found = append(found, Problem{name, err.Error()})
				continue
			}
			q.Filters = append(q.Filters, f)
		case name == "search":
			q.Filters = append(q.Filters, store.NewGatewayLogSearch(value))
		case name == "order_by":
			if q.OrderBy = value; !slices.Contains(store.GatewayLogOrders(), value) {
				found = append(found, Problem{name, "must be one of " + strings.Join(store.GatewayLogOrders(), ", ")})
			}
		case name == "order_by_direction" || name == "direction":
			if q.Descending = value == "desc"; value != "asc" && value != "desc" {
				found = append(found, Problem{name, "must be asc or desc"})
			}
		case name == "filters" || strings.HasPrefix(name, "filters.") || slices.Contains(known, name):
		default:
			found = append(found, Problem{name, "is not known"})
		}
	}
	return q, found
}

func sortedParams(v url.Values) []string {
	var names []string
	for n := range v {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// maxLogFilters bounds the length of a statement.
const maxLogFilters = 50

// rawFilter is one filter as clients write it. A single value may stand without its array.
type rawFilter struct {
	Key      string          `json:"key"`
	Operator string          `json:"operator"`
	Value    json.RawMessage `json:"value"`
}

// readLogFilters reads both forms that are in use: a JSON array, and the form of generated clients, which repeats filters.key,
// filters.operator and filters.value. The latter has one value a filter, because nothing says where the next begins.
func readLogFilters(params url.Values) ([]store.GatewayLogFilter, []Problem) {
	var raws []rawFilter
	var found []Problem
	for _, s := range params["filters"] {
		var list []rawFilter
		if s = strings.TrimSpace(s); strings.HasPrefix(s, "{") {
			s = "[" + s + "]"
		}
		d := json.NewDecoder(strings.NewReader(s))
		d.DisallowUnknownFields()
		if err := d.Decode(&list); err != nil || d.More() {
			found = append(found, Problem{"filters", "must be a JSON array of objects with key, operator and value"})
		}
		raws = append(raws, list...)
	}
	keys, operators, values := params["filters.key"], params["filters.operator"], params["filters.value"]
	if len(keys) != len(operators) || len(keys) != len(values) {
		return nil, append(found, Problem{"filters", "with several values must be a JSON array"})
	}
	for name := range params {
		if strings.HasPrefix(name, "filters.") && name != "filters.key" && name != "filters.operator" && name != "filters.value" {
			found = append(found, Problem{name, "is not known"})
		}
	}
	for i := range keys {
		value, err := json.Marshal(values[i])
		if err != nil {
			found = append(found, Problem{"filters.value", "can't be read"})
		}
		raws = append(raws, rawFilter{keys[i], operators[i], value})
	}
	if len(raws) > maxLogFilters {
		return nil, append(found, Problem{"filters", fmt.Sprintf("may be %d at most", maxLogFilters)})
	}
	var filters []store.GatewayLogFilter
	for i, r := range raws {
		values, err := filterValues(r.Value)
		if err == nil {
			var f store.GatewayLogFilter
			f, err = store.NewGatewayLogFilter(r.Key, r.Operator, values)
			filters = append(filters, f)
		}
		if err != nil {
			found = append(found, Problem{fmt.Sprintf("filters[%d]", i), err.Error()})
		}
	}
	return filters, found
}

var errFilterValue = errors.New("the value must be an array of strings, numbers and booleans")

func filterValues(raw json.RawMessage) ([]string, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, errFilterValue
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	values := make([]string, len(list))
	for i, e := range list {
		switch e := e.(type) {
		case string:
			values[i] = e
		case json.Number:
			values[i] = e.String()
		case bool:
			values[i] = strconv.FormatBool(e)
		default:
			return nil, errFilterValue
		}
	}
	return values, nil
}

// logDetail is a request by itself: with the beginnings of its bodies, as far as they are text.
type logDetail struct {
	logResult
	RequestSize          int64  `json:"request_size"`
	RequestHead          string `json:"request_head"`
	RequestHeadComplete  bool   `json:"request_head_complete"`
	ResponseSize         int64  `json:"response_size"`
	ResponseHead         string `json:"response_head"`
	ResponseHeadComplete bool   `json:"response_head_complete"`
}

// headBytes is how much of a body a log shows; Cloudflare doesn't say how much its own does.
const headBytes = 4096

func (m *management) getLog(c *call) (*answer, error) {
	id, err := c.id("id", "log")
	if err != nil {
		return nil, err
	}
	l, err := m.db.GatewayLog(c.Context(), c.account, c.gateway, id)
	if err != nil {
		return nil, err
	}
	request, response, err := m.db.GatewayLogHeads(c.Context(), c.account, c.gateway, id, headBytes+1)
	if err != nil {
		return nil, err
	}
	d := logDetail{logResult: showLog(l), RequestSize: l.RequestSize, ResponseSize: l.ResponseSize}
	d.RequestHead, d.RequestHeadComplete = headOf(request)
	d.ResponseHead, d.ResponseHeadComplete = headOf(response)
	return &answer{Result: d}, nil
}

// headOf returns what is text of a body's beginning, and whether that is all of a body that was kept.
func headOf(body []byte) (string, bool) {
	complete := body != nil && len(body) <= headBytes
	if len(body) > headBytes {
		body = body[:headBytes]
		for n := 0; n < utf8.UTFMax-1 && !utf8.Valid(body); n++ { // don't cut a character
			body = body[:len(body)-1]
		}
	}
	if !utf8.Valid(body) {
		return "", false
	}
	return string(body), complete
}

// getLogRequest and getLogResponse return a body as it was, without the envelope: so do Cloudflare's clients read it.
func (m *management) getLogRequest(c *call) (*answer, error)  { return m.body(c, false) }
func (m *management) getLogResponse(c *call) (*answer, error) { return m.body(c, true) }

func (m *management) body(c *call, response bool) (*answer, error) {
	id, err := c.id("id", "log")
	if err != nil {
		return nil, err
	}
	raw, contentType, err := m.db.GatewayLogBody(c.Context(), c.account, c.gateway, id, response)
	if err != nil {
		return nil, err
	}
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	return &answer{Raw: raw, ContentType: contentType}, nil
}

// patchLog sets what the request names; null clears it.
func (m *management) patchLog(c *call) (*answer, error) {
	id, err := c.id("id", "log")
	if err != nil {
		return nil, err
	}
	var in struct {
		Feedback json.RawMessage `json:"feedback"`
		Score    json.RawMessage `json:"score"`
		Metadata json.RawMessage `json:"metadata"`
	}
	found := decodeFields(c.body, &in)
	var p store.GatewayLogPatch
	if p.SetFeedback = in.Feedback != nil; p.SetFeedback {
		if err := json.Unmarshal(in.Feedback, &p.Feedback); err != nil || p.Feedback != nil && *p.Feedback != 1 && *p.Feedback != -1 {
			found = append(found, Problem{"feedback", "must be -1, 1 or null"})
		}
	}
	if p.SetScore = in.Score != nil; p.SetScore {
		if err := json.Unmarshal(in.Score, &p.Score); err != nil {
			found = append(found, Problem{"score", "must be a number or null"})
		}
	}
	if p.SetMetadata = in.Metadata != nil; p.SetMetadata {
		if problem := checkMetadata(in.Metadata); problem != "" {
			found = append(found, Problem{"metadata", problem})
		}
		p.Metadata = in.Metadata
	}
	if len(found) > 0 {
		return nil, invalidCall(found...)
	}
	l, err := m.db.PatchGatewayLog(c.Context(), c.account, c.gateway, id, p)
	if err != nil {
		return nil, err
	}
	return &answer{Result: showLog(l)}, nil
}

func checkMetadata(raw json.RawMessage) string {
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		return "must be an object or null"
	}
	if len(v) > maxMetadata {
		return fmt.Sprintf("may have %d entries", maxMetadata)
	}
	for _, e := range v {
		switch e.(type) {
		case string, bool, float64:
		default:
			return "must hold only strings, numbers and booleans"
		}
	}
	return ""
}
