package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

// deref reads an optional parameter.
func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

// page cuts one row more than was asked for off, and points behind the last row that is left.
func page[T any](rows []T, limit int, key func(T) string) ([]T, *NextCursor) {
	if len(rows) <= limit {
		return rows, nil
	}
	rows = rows[:limit]
	next := encodeCursor(key(rows[limit-1]))
	return rows, &next
}

func encodeCursor(key string) NextCursor { return base64.RawURLEncoding.EncodeToString([]byte(key)) }

// cursor returns what page encoded, or "" without a cursor.
func cursor(c *Cursor) (string, error) {
	key, err := base64.RawURLEncoding.DecodeString(deref(c, ""))
	if err != nil {
		return "", badCursor()
	}
	return string(key), nil
}

// cursorID is a cursor of a list that is ordered by id; nil without one.
func cursorID(c *Cursor) (*uuid.UUID, error) {
	key, err := cursor(c)
	if err != nil || key == "" {
		return nil, err
	}
	id, err := uuid.Parse(key)
	if err != nil {
		return nil, badCursor()
	}
	return &id, nil
}

func badCursor() error {
	return invalidField("cursor", "invalid", "must be a next_cursor of this list")
}

// each converts rows; no rows are an empty array, not null.
func each[From, To any](rows []From, convert func(From) To) []To {
	all := make([]To, len(rows))
	for i, row := range rows {
		all[i] = convert(row)
	}
	return all
}

// batch finds a batch of the caller's project. An id that can't be one is not found either.
func (h *handlers) batch(ctx context.Context, id BatchID) (store.Batch, error) {
	u, err := batchID(id)
	if err != nil {
		return store.Batch{}, err
	}
	b, err := h.Read.Batch(ctx, projectOf(ctx).ID, u)
	if err != nil {
		return store.Batch{}, fmt.Errorf("api: batch: %w", err)
	}
	return b, nil
}

func batchID(id string) (uuid.UUID, error) { return pathID("batch", id) }

// pathID reads the id of a thing. One that can't be an id is not found.
func pathID(thing, id string) (uuid.UUID, error) {
	u, err := uuid.Parse(id)
	if err != nil || len(id) != 36 { // Parse takes other spellings too
		return uuid.UUID{}, &problem{status: http.StatusNotFound, detail: "a " + thing + " id is a UUID; this isn't one"}
	}
	return u, nil
}

// ListBatches pages through the project's batches.
func (h *handlers) ListBatches(ctx context.Context, req ListBatchesRequestObject) (ListBatchesResponseObject, error) {
	p, limit := req.Params, deref(req.Params.Limit, 50)
	before, err := cursorID(p.Cursor)
	if err != nil {
		return nil, err
	}
	rows, err := h.Read.Batches(ctx, projectOf(ctx).ID, string(deref(p.Kind, "")), string(deref(p.State, "")), before, limit+1)
	if err != nil {
		return nil, fmt.Errorf("api: batches: %w", err)
	}
	rows, next := page(rows, limit, func(b store.Batch) string { return b.ID.String() })
	return ListBatches200JSONResponse{Data: each(rows, func(b store.Batch) Batch { return toBatch(b, nil) }), NextCursor: next}, nil
}

// GetBatch shows one batch with its counts.
func (h *handlers) GetBatch(ctx context.Context, req GetBatchRequestObject) (GetBatchResponseObject, error) {
	b, err := h.batch(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	out, err := h.counted(ctx, b)
	return GetBatch200JSONResponse(out), err
}

func (h *handlers) counted(ctx context.Context, b store.Batch) (Batch, error) {
	stats, err := h.Read.BatchStats(ctx, b)
	if err != nil {
		return Batch{}, fmt.Errorf("api: batch stats: %w", err)
	}
	return toBatch(b, &stats), nil
}

func toBatch(b store.Batch, stats *store.BatchStats) Batch {
	out := Batch{
		ID: b.ID, Name: b.Name, Kind: Kind(b.Kind), State: BatchState(b.State), TotalJobs: b.TotalJobs, Error: b.Error,
		Template: ref(b.TemplateName, b.TemplateVersion), Route: ref(b.RouteName, b.RouteVersion),
		RouteSpec: orEmpty(b.Route), Params: orEmpty(b.Params), Metadata: orEmpty(b.Metadata),
		OnInvalid: OnInvalid(b.OnInvalid), Cache: CachePolicy(b.Cache),
		Priority: int(b.Priority), Concurrency: b.Concurrency, MaxAttempts: b.MaxAttempts, JobTimeoutSeconds: b.JobTimeoutSeconds,
		ExpiresAt: utc(b.ExpiresAt), MaxCostMicrousd: b.MaxCostMicrousd,
		CreatedAt: b.CreatedAt.UTC(), StartedAt: utc(b.StartedAt), FinishedAt: utc(b.FinishedAt),
		Open: b.OpenUpload && b.State == "ingesting" && b.Source == nil, PurgedAt: utc(b.PurgedAt), MaxAgeSeconds: b.MaxAgeSeconds, RerunOf: b.RerunOf, Source: b.Source,
		OnForecastOver: OnForecastOver(b.OnForecastOver), DryRun: b.DryRun,
	}
	if b.PauseReason != nil && b.PausedAt != nil {
		out.Pause = &Pause{Reason: PauseReason(*b.PauseReason), Detail: deref(b.PauseDetail, ""), Since: b.PausedAt.UTC()}
	}
	if b.State == "running" {
		out.StalledAt = utc(b.StalledAt)
	}
	if stats != nil {
		out.Stats = toStats(*stats)
	}
	return out
}

func toStats(s store.BatchStats) *BatchStats {
	out := &BatchStats{
		Jobs: JobCounts{
			Pending: s.Pending, Planned: s.Planned, Running: s.Running, Waiting: s.Waiting,
			Succeeded: s.Succeeded, Failed: s.Failed, Cancelled: s.Cancelled,
		},
		Cache: CacheCounts{ResultHit: s.ResultHits, Coalesced: s.Coalesced, GatewayHit: s.GatewayHits, Miss: s.Misses, Bypass: s.Bypassed},
		Calls: s.Calls, UncertainCalls: s.UncertainCalls, CallsWithoutCost: s.UnpricedCalls,
		InputTokens: s.InputTokens, CachedInputTokens: s.CachedInputTokens, OutputTokens: s.OutputTokens,
	}
	if s.Calls == 0 || s.UnpricedCalls < s.Calls {
		out.CostMicrousd = &s.CostMicrousd
	}
	return out
}

func ref(name *string, version *int32) *string {
	if name == nil || version == nil {
		return nil
	}
	s := fmt.Sprintf("%s@%d", *name, *version)
	return &s
}

func orEmpty(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("{}")
	}
	return raw
}

func utc(t *time.Time) *time.Time {
	if t == nil {
		return nil
	}
	u := t.UTC()
	return &u
}

// StreamResults sends what is finished.
func (h *handlers) StreamResults(ctx context.Context, req StreamResultsRequestObject) (StreamResultsResponseObject, error) {
	b, err := h.batch(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	if b.PurgedAt != nil {
		return nil, &problem{status: http.StatusGone, detail: "the batch was purged: its counts are left, and the answers that are in the result cache"}
	}
	rows := h.Read.Results(ctx, b.ID, string(deref(req.Params.Status, "")), deref(req.Params.After, 0))
	ended := func(yield func(store.Result, error) bool) {
		for row, err := range rows {
			if (err != nil || final(row.State)) && !yield(row, err) {
				return
			}
		}
	}
	return resultStream{newStream(ended, toResult, "results", h.Log.With("batch_id", b.ID))}, nil
}

// resultStream writes results as NDJSON.
type resultStream struct {
	ndjsonStream[store.Result, Result]
}

// VisitStreamResultsResponse implements the generated response.
func (s resultStream) VisitStreamResultsResponse(w http.ResponseWriter) error { return s.write(w) }

func final(state string) bool {
	switch ResultStatus(state) {
	case ResultStatusSucceeded, ResultStatusFailed, ResultStatusCancelled:
		return true
	}
	return false
}

func toResult(r store.Result) Result {
	j := toJob(r.Job)
	out := Result{
		JobID: j.ID, CustomID: j.CustomID, Index: j.Index, Status: ResultStatus(j.Status), Error: j.Error,
		Provider: j.Provider, Model: j.Model, CacheStatus: j.CacheStatus, Usage: j.Usage, CostMicrousd: j.CostMicrousd, Repaired: j.Repaired,
	}
	switch {
	case r.Output == nil:
	case r.OutputFormat == "json":
		out.Output = json.RawMessage(*r.Output)
	default:
		out.Output = *r.Output
	}
	out.Coverage, out.Outline = toDetails(r.Details)
	return out
}
