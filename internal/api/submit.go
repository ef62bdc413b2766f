package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime/multipart"
	"net/http"
	"strings"
	"unicode/utf8"

	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

const (
	maxOptions  = 1 << 20 // bytes of the multipart part batch
	maxFileName = 255     // bytes
)

// options are the fields of BatchOptions as they came in, bytes untouched.
type options map[string]json.RawMessage

// CreateBatch submits a batch in one of its four forms.
func (h *handlers) CreateBatch(ctx context.Context, req CreateBatchRequestObject) (CreateBatchResponseObject, error) {
	var opts options
	var in iter.Seq2[jobs.Line, error]
	var err error
	switch {
	case req.JSONBody != nil:
		opts, in, err = fromJSON(*req.JSONBody)
	case req.MultipartBody != nil:
		opts, in, err = h.fromMultipart(req.MultipartBody)
	default:
		opts, err = fromQuery(req.Params)
		in = h.stream(req.Body)
	}
	if err != nil {
		return nil, err
	}
	if req.Body == nil && hasQueryOptions(req.Params) {
		return nil, &problem{status: http.StatusBadRequest, detail: "batch options are query parameters for application/x-ndjson and text/csv only; here they belong in the body"}
	}
	spec, err := h.spec(opts)
	if err != nil {
		return nil, err
	}
	spec.IdempotencyKey = deref(req.Params.IdempotencyKey, "")
	spec.DryRun = deref(req.Params.DryRun, false)
	b, replayed, err := h.Jobs.Submit(ctx, projectOf(ctx), spec, in)
	if err != nil {
		return nil, err
	}
	if spec.DryRun {
		return h.dryRun(ctx, b)
	}
	return CreateBatch202JSONResponse{
		Body:    toBatch(b, nil),
		Headers: CreateBatch202ResponseHeaders{Location: "/v1/batches/" + b.ID.String(), IdempotencyReplayed: replayed},
	}, nil
}

// spec checks options against the contract.
func (h *handlers) spec(opts options) (jobs.Spec, error) {
	values := map[string]any{}
	for name, raw := range opts {
		v, err := decodeAny(raw)
		if err != nil {
			return jobs.Spec{}, err
		}
		values[name] = v
	}
	if faults := validate(h.contract.options, values); faults != nil {
		return jobs.Spec{}, invalid(faults)
	}
	text := func(name, otherwise string) string {
		if s, ok := values[name].(string); ok {
			return s
		}
		return otherwise
	}
	spec := jobs.Spec{
		Kind: text("kind", ""), Name: text("name", ""), Template: text("template", ""),
		Route: opts["route"], Params: opts["params"],
		OnInvalid: text("on_invalid", string(OnInvalidRefuse)), Cache: text("cache", string(CachePolicyUse)), Source: opts["source"],
		OnForecastOver: text("on_forecast_over", string(OnForecastOverRun)),
	}
	if spec.Source != nil {
		spec.OnInvalid = text("on_invalid", "") // it has another default then
	}
	if err := limits(opts, &spec.Limits); err != nil {
		return jobs.Spec{}, err
	}
	if raw, ok := opts["max_age_seconds"]; ok && json.Unmarshal(raw, &spec.MaxAgeSeconds) != nil {
		return jobs.Spec{}, invalidField("max_age_seconds", "wrong_type", "is not of the form that the contract wants")
	}
	spec.Open, _ = values["open"].(bool)
	if labels, ok := values["metadata"].(map[string]any); ok {
		spec.Metadata = make(map[string]string, len(labels))
		for k, v := range labels {
			spec.Metadata[k], _ = v.(string) // the contract allows nothing else
		}
	}
	return spec, nil
}

// limits reads the fields that bound a batch. The contract has checked their ranges.
func limits(opts options, into *store.Limits) error {
	for name, field := range map[string]any{
		"priority": &into.Priority, "concurrency": &into.Concurrency, "max_attempts": &into.MaxAttempts,
		"job_timeout_seconds": &into.JobTimeoutSeconds, "expires_at": &into.ExpiresAt, "max_cost_microusd": &into.MaxCostMicrousd,
	} {
		if raw, ok := opts[name]; ok && json.Unmarshal(raw, field) != nil {
			return invalidField(name, "wrong_type", "is not of the form that the contract wants")
		}
	}
	return nil
}

// fromJSON takes a whole BatchSubmission apart. Jobs are passed on one by one and checked where lines of a stream are.
func fromJSON(body json.RawMessage) (options, iter.Seq2[jobs.Line, error], error) {
	opts, err := object(body)
	if err != nil {
		return nil, nil, err
	}
	list, ok := opts["jobs"]
	switch {
	case !ok && (string(opts["open"]) == "true" || opts["source"] != nil):
		list = json.RawMessage("[]")
	case !ok:
		return nil, nil, invalidField("/jobs", "required", "is required")
	case !bytes.HasPrefix(list, []byte("[")):
		return nil, nil, invalidField("/jobs", "wrong_type", "must be an array")
	}
	delete(opts, "jobs")
	return opts, elements(list), nil
}

func object(data []byte) (options, error) {
	var opts options
	if err := json.Unmarshal(data, &opts); err != nil {
		if _, ok := errors.AsType[*json.SyntaxError](err); ok {
			return nil, badJSON(data, err)
		}
		return nil, invalidField("", "wrong_type", "the batch must be a JSON object")
	}
	if opts == nil { // null
		return nil, invalidField("", "wrong_type", "the batch must be a JSON object")
	}
	return opts, nil
}

// elements yields the members of a valid JSON array as lines, numbered by position from 1.
func elements(list json.RawMessage) iter.Seq2[jobs.Line, error] {
	return func(yield func(jobs.Line, error) bool) {
		d := json.NewDecoder(bytes.NewReader(list))
		_, err := d.Token()
		var raw json.RawMessage
		for n := 1; err == nil && d.More(); n++ {
			if err = d.Decode(&raw); err == nil && !yield(jobs.Line{Number: n, Raw: raw}, nil) {
				return
			}
		}
		if err != nil {
			yield(jobs.Line{}, fmt.Errorf("api: jobs of a checked body: %w", err))
		}
	}
}

func hasQueryOptions(p CreateBatchParams) bool {
	p.IdempotencyKey, p.DryRun = nil, nil
	return p != CreateBatchParams{}
}

// fromQuery builds the same object that the other forms give as JSON.
func fromQuery(p CreateBatchParams) (options, error) {
	opts := options{}
	str := func(name string, value *string) {
		if value != nil {
			opts[name], _ = json.Marshal(*value) // a string
		}
	}
	str("kind", (*string)(p.Kind))
	str("name", p.Name)
	str("template", p.Template)
	str("on_invalid", (*string)(p.OnInvalid))
	str("cache", (*string)(p.Cache))
	str("on_forecast_over", (*string)(p.OnForecastOver))
	bound := func(name string, set bool, value any) {
		if set {
			opts[name], _ = json.Marshal(value) // a number, a time or a flag
		}
	}
	bound("open", p.Open != nil, p.Open)
	bound("max_age_seconds", p.MaxAgeSeconds != nil, p.MaxAgeSeconds)
	bound("priority", p.Priority != nil, p.Priority)
	bound("concurrency", p.Concurrency != nil, p.Concurrency)
	bound("max_attempts", p.MaxAttempts != nil, p.MaxAttempts)
	bound("job_timeout_seconds", p.JobTimeoutSeconds != nil, p.JobTimeoutSeconds)
	bound("expires_at", p.ExpiresAt != nil, p.ExpiresAt)
	bound("max_cost_microusd", p.MaxCostMicrousd != nil, p.MaxCostMicrousd)
	var faults []Fault
	raw := func(name string, value *string) {
		if value == nil {
			return
		}
		if !json.Valid([]byte(*value)) {
			faults = append(faults, Fault{Field: name, Code: "bad_json", Message: "must be JSON"})
			return
		}
		opts[name] = json.RawMessage(*value)
	}
	raw("params", p.Params)
	raw("metadata", p.Metadata)
	if route := deref(p.Route, ""); strings.HasPrefix(strings.TrimSpace(route), "{") {
		raw("route", p.Route)
	} else {
		str("route", p.Route)
	}
	if faults != nil {
		return nil, invalid(faults)
	}
	return opts, nil
}

// fromMultipart reads the part batch and leaves the others to be read as lines.
func (h *handlers) fromMultipart(mr *multipart.Reader) (options, iter.Seq2[jobs.Line, error], error) {
	part, err := mr.NextPart()
	if err != nil && err != io.EOF { //nolint:errorlint // only the plain EOF is the end
		return nil, nil, partError(err)
	}
	if err != nil || part.FormName() != "batch" {
		return nil, nil, &problem{status: http.StatusBadRequest, detail: "the first part must be `batch`: the options as JSON"}
	}
	data, err := io.ReadAll(io.LimitReader(part, maxOptions+1))
	if err != nil {
		return nil, nil, partError(err)
	}
	if len(data) > maxOptions {
		return nil, nil, &problem{status: http.StatusRequestEntityTooLarge, detail: fmt.Sprintf("the part `batch` is over %d bytes", maxOptions)}
	}
	if !utf8.Valid(data) {
		return nil, nil, &problem{status: http.StatusBadRequest, detail: "the part `batch` is not valid UTF-8"}
	}
	opts, err := object(data)
	return opts, h.parts(mr), err
}

// parts yields the documents, and the lines of the part jobs, in the order sent. They are numbered together. A
// document's Data is valid until the next line is asked for, as Raw is.
func (h *handlers) parts(mr *multipart.Reader) iter.Seq2[jobs.Line, error] {
	return func(yield func(jobs.Line, error) bool) {
		var buf bytes.Buffer
		number, hadJobs := 0, false
		for {
			part, err := mr.NextPart()
			if err == io.EOF { // only the plain one is the end
				return
			}
			if err != nil {
				yield(jobs.Line{}, partError(err))
				return
			}
			switch name := part.FormName(); {
			case name == "documents":
				number++
				line, err := h.document(part, &buf)
				line.Number = number
				if !yield(line, err) || err != nil {
					return
				}
			case name == "jobs" && !hadJobs:
				hadJobs = true
				for line, err := range lines(part, h.MaxLine, number) {
					if err != nil {
						err = partError(err)
					}
					if !yield(line, err) || err != nil {
						return
					}
					number = line.Number
				}
			case name == "jobs", name == "batch":
				yield(jobs.Line{}, &problem{status: http.StatusBadRequest, detail: "there may be one part `" + name + "`, and `batch` comes first in a submission, nowhere else"})
				return
			default:
				yield(jobs.Line{}, &problem{status: http.StatusBadRequest, detail: fmt.Sprintf("there is no part %q; parts are batch, documents and jobs", clip(name))})
				return
			}
		}
	}
}

// document reads a file into buf. An error means that the stream broke.
func (h *handlers) document(part *multipart.Part, buf *bytes.Buffer) (jobs.Line, error) {
	buf.Reset()
	if _, err := buf.ReadFrom(io.LimitReader(part, int64(h.MaxLine)+1)); err != nil {
		return jobs.Line{}, partError(err)
	}
	name := part.FileName()
	switch {
	case buf.Len() > h.MaxLine:
		return jobs.Line{Err: longLine(h.MaxLine)}, nil
	case !utf8.ValidString(name), len(name) > maxFileName, strings.ContainsRune(name, 0):
		return jobs.Line{Err: fmt.Errorf("has a file name that is not UTF-8 or longer than %d bytes", maxFileName)}, nil
	}
	return jobs.Line{Upload: &jobs.Upload{Name: name, ContentType: part.Header.Get("Content-Type"), Data: buf.Bytes()}}, nil
}

// partError keeps problems from the body below and says that the rest is malformed multipart.
func partError(err error) error {
	if _, ok := errors.AsType[*problem](err); ok {
		return err
	}
	return &problem{status: http.StatusBadRequest, detail: "the multipart body is malformed or broke off before its last boundary; none of its jobs will run",
		err: fmt.Errorf("%w: %w", store.ErrBroken, err)}
}
