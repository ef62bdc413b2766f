package client

import (
	"encoding/json"
	"strings"
	"time"
)

// BatchOptions are said once for all jobs of a submission. Kind and Route are required.
type BatchOptions struct {
	Kind     string // summarize, generate, chat or pipeline
	Name     string // for people
	Template string // NAME or NAME@VERSION; for generate

	// Route is a stored route (NAME or NAME@VERSION), a chain such as "openai:gpt-5.2,local/extractive", or a RouteSpec
	// as JSON text.
	Route string

	Params    json.RawMessage   // options of the kind, a JSON object
	OnInvalid string            // refuse (default) or skip
	Cache     string            // use (default), refresh or off
	Metadata  map[string]string // labels

	// Source says where the jobs come from, a JSON object with urls or a query; for SubmitSource.
	Source          json.RawMessage
	MaxCostMicrousd *int64 // most that its calls may cost; nil for no limit of its own
	OnForecastOver  string // what to do when the forecast is over that: run (default), pause or refuse

	Encoding string // of NDJSON that is compressed: gzip or zstd

	// IdempotencyKey makes a repeat of the same submission safe: it answers with the first one's batch.
	IdempotencyKey string
}

// route returns the route as JSON: a string, or the object that it spells.
func (o BatchOptions) route() json.RawMessage {
	if text := strings.TrimSpace(o.Route); strings.HasPrefix(text, "{") && json.Valid([]byte(text)) {
		return json.RawMessage(text)
	}
	text, _ := json.Marshal(o.Route) // a string
	return text
}

// Batch is a submission.
type Batch struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Kind       string     `json:"kind"`
	State      string     `json:"state"` // ingesting, planning, running, paused, cancelling; completed, failed, cancelled, expired
	TotalJobs  int64      `json:"total_jobs"`
	Template   *string    `json:"template"`
	Route      *string    `json:"route"`
	Error      *string    `json:"error"` // why a failed batch failed
	CreatedAt  time.Time  `json:"created_at"`
	StartedAt  *time.Time `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at"`
	Stats      Stats      `json:"stats"` // zero in the answer to a submission
	Pause      *Pause     `json:"pause"` // nil while it isn't paused

	Source json.RawMessage `json:"source"` // where its jobs come from; null when they were submitted

	// Progress is the server's reckoning of rate, time and cost. Only [Client.Watch] sets it, while it follows an open batch's events.
	Progress *Progress `json:"-"`

	// Replayed says that an earlier submission with the same idempotency key made this batch. Only submissions set it.
	Replayed bool `json:"-"`
}

// Pause says why a batch is paused, or will be once it is planned.
type Pause struct {
	Reason string    `json:"reason"` // requested, budget or forecast
	Detail string    `json:"detail"`
	Since  time.Time `json:"since"`
}

// Final reports whether the batch's state can't change any more.
func (b Batch) Final() bool {
	switch b.State {
	case "completed", "failed", "cancelled", "expired":
		return true
	}
	return false
}

// Done counts the jobs that are final.
func (b Batch) Done() int64 {
	return b.Stats.Jobs.Succeeded + b.Stats.Jobs.Failed + b.Stats.Jobs.Cancelled
}

// Stats are counts over a batch, live while it is open and frozen when it ends.
type Stats struct {
	Jobs              JobCounts   `json:"jobs"`
	Cache             CacheCounts `json:"cache"`
	Calls             int64       `json:"calls"`
	UncertainCalls    int64       `json:"uncertain_calls"`
	CallsWithoutCost  int64       `json:"calls_without_cost"`
	InputTokens       int64       `json:"input_tokens"` // cached ones included
	CachedInputTokens int64       `json:"cached_input_tokens"`
	OutputTokens      int64       `json:"output_tokens"`
	CostMicroUSD      *int64      `json:"cost_microusd"` // nil: unknown
}

// JobCounts are jobs by status.
type JobCounts struct {
	Pending   int64 `json:"pending"`
	Planned   int64 `json:"planned"`
	Running   int64 `json:"running"`
	Waiting   int64 `json:"waiting"`
	Succeeded int64 `json:"succeeded"`
	Failed    int64 `json:"failed"`
	Cancelled int64 `json:"cancelled"`
}

// CacheCounts are jobs by cache verdict. The kinds are never summed.
type CacheCounts struct {
	ResultHit  int64 `json:"result_hit"`
	Coalesced  int64 `json:"coalesced"`
	GatewayHit int64 `json:"gateway_hit"`
	Miss       int64 `json:"miss"`
	Bypass     int64 `json:"bypass"`
}

// Usage is what a job used.
type Usage struct {
	Calls             int64 `json:"calls"`
	InputTokens       int64 `json:"input_tokens"`
	CachedInputTokens int64 `json:"cached_input_tokens"`
	OutputTokens      int64 `json:"output_tokens"`
}

// Failure says why a job failed.
type Failure struct {
	Class   string `json:"class"`
	Message string `json:"message"`
}

// Job is one unit of work.
type Job struct {
	ID           string     `json:"id"`
	Index        int32      `json:"index"` // from 1
	CustomID     *string    `json:"custom_id"`
	Status       string     `json:"status"`
	CacheStatus  *string    `json:"cache_status"`
	Error        *Failure   `json:"error"`
	Attempts     int32      `json:"attempts"`
	Provider     *string    `json:"provider"`
	Model        *string    `json:"model"`
	Usage        Usage      `json:"usage"`
	CostMicroUSD *int64     `json:"cost_microusd"` // nil: unknown
	DueAt        *time.Time `json:"due_at"`
	FinishedAt   *time.Time `json:"finished_at"`
	LeaderID     *string    `json:"leader_id"`
}

// Result is a finished job and its answer.
type Result struct {
	JobID        string          `json:"job_id"`
	CustomID     *string         `json:"custom_id"`
	Index        int32           `json:"index"`
	Status       string          `json:"status"` // succeeded, failed or cancelled
	Output       json.RawMessage `json:"output"` // a JSON string, another JSON value, or null
	Error        *Failure        `json:"error"`
	Provider     *string         `json:"provider"`
	Model        *string         `json:"model"`
	CacheStatus  *string         `json:"cache_status"`
	Usage        Usage           `json:"usage"`
	CostMicroUSD *int64          `json:"cost_microusd"` // nil: unknown
	Coverage     *Coverage       `json:"coverage"`      // of a summary
	Outline      []OutlineLine   `json:"outline"`       // if it was asked for

	Raw json.RawMessage `json:"-"` // the whole line as the server sent it
}

// Text returns a text answer itself, and any other as JSON; without an answer, nothing.
func (r Result) Text() string {
	var text *string
	if json.Unmarshal(r.Output, &text) != nil {
		return string(r.Output)
	}
	if text == nil {
		return ""
	}
	return *text
}

// Definition is one version of a template or a route. It never changes.
type Definition struct {
	Name      string          `json:"name"`
	Version   int32           `json:"version"`
	Ref       string          `json:"ref"` // NAME@VERSION
	Spec      json.RawMessage `json:"spec"`
	CreatedAt time.Time       `json:"created_at"`
	Findings  []Finding       `json:"findings"` // of a template that was just saved
}
