package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// scheduler is the part of Writer that changes schedules, and says when they are due.
type scheduler interface {
	CreateSchedule(ctx context.Context, project store.Project, in jobs.ScheduleSettings) (store.Schedule, error)
	UpdateSchedule(ctx context.Context, project store.Project, id uuid.UUID, change func(*jobs.ScheduleSettings) error) (store.Schedule, error)
	DeleteSchedule(ctx context.Context, project, id uuid.UUID) error
	RunSchedule(ctx context.Context, project, id uuid.UUID, key string) (t store.Tick, replayed bool, err error)
	PreviewSchedule(ctx context.Context, project, id uuid.UUID, n int) ([]jobs.DueTime, error)
	PreviewSettings(ctx context.Context, in jobs.ScheduleSettings, n int) ([]jobs.DueTime, error)
}

type scheduleReader interface {
	Schedule(ctx context.Context, project, id uuid.UUID) (store.Schedule, error)
	Schedules(ctx context.Context, project uuid.UUID, before *uuid.UUID, limit int) ([]store.Schedule, error)
	Ticks(ctx context.Context, project, schedule uuid.UUID, state string, before *time.Time, limit int) ([]store.Tick, error)
}

func scheduleID(id ScheduleID) (uuid.UUID, error) { return pathID("schedule", id) }

// scheduleSettings lays a body over settings: what it leaves out stays. The contract has checked it.
func (h *handlers) scheduleSettings(body json.RawMessage, into *jobs.ScheduleSettings) error {
	fields, err := object(body)
	if err != nil {
		return err
	}
	if _, ok := fields["export"]; ok {
		into.Export = nil // it is given as a whole
	}
	if err := json.Unmarshal(body, into); err != nil {
		return invalidField("", "wrong_type", "is not of the form that the contract wants")
	}
	raw, ok := fields["batch"]
	if !ok {
		return nil
	}
	opts, err := object(raw)
	if err != nil {
		return err
	}
	b := &jobs.ScheduledBatch{}
	if list, ok := opts["jobs"]; ok {
		b.Jobs = bytes.Clone(list)
		delete(opts, "jobs")
	}
	if id, ok := opts["inputs_of"]; ok {
		if json.Unmarshal(id, &b.InputsOf) != nil {
			return invalidField("/batch/inputs_of", "bad_format", "must be the id of a batch")
		}
		delete(opts, "inputs_of")
	}
	if b.Spec, err = h.spec(opts); err != nil {
		return err
	}
	into.Batch = b
	return nil
}

// CreateSchedule makes a schedule.
func (h *handlers) CreateSchedule(ctx context.Context, req CreateScheduleRequestObject) (CreateScheduleResponseObject, error) {
	in := jobs.DefaultSchedule()
	if err := h.scheduleSettings(*req.Body, &in); err != nil {
		return nil, err
	}
	s, err := h.Jobs.CreateSchedule(ctx, projectOf(ctx), in)
	if err != nil {
		return nil, err
	}
	return CreateSchedule201JSONResponse{Body: toSchedule(s), Headers: CreateSchedule201ResponseHeaders{Location: "/v1/schedules/" + s.ID.String()}}, nil
}

// ListSchedules pages through the project's schedules.
func (h *handlers) ListSchedules(ctx context.Context, req ListSchedulesRequestObject) (ListSchedulesResponseObject, error) {
	before, err := cursorID(req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	limit := deref(req.Params.Limit, 50)
	rows, err := h.Read.Schedules(ctx, projectOf(ctx).ID, before, limit+1)
	if err != nil {
		return nil, fmt.Errorf("api: schedules: %w", err)
	}
	rows, next := page(rows, limit, func(s store.Schedule) string { return s.ID.String() })
	return ListSchedules200JSONResponse{Data: each(rows, toSchedule), NextCursor: next}, nil
}

// GetSchedule shows a schedule.
func (h *handlers) GetSchedule(ctx context.Context, req GetScheduleRequestObject) (GetScheduleResponseObject, error) {
	id, err := scheduleID(req.ID)
	if err != nil {
		return nil, err
	}
	s, err := h.Read.Schedule(ctx, projectOf(ctx).ID, id)
	if err != nil {
		return nil, fmt.Errorf("api: schedule: %w", err)
	}
	return GetSchedule200JSONResponse(toSchedule(s)), nil
}

// UpdateSchedule changes what is given.
func (h *handlers) UpdateSchedule(ctx context.Context, req UpdateScheduleRequestObject) (UpdateScheduleResponseObject, error) {
	id, err := scheduleID(req.ID)
	if err != nil {
		return nil, err
	}
	s, err := h.Jobs.UpdateSchedule(ctx, projectOf(ctx), id, func(in *jobs.ScheduleSettings) error { return h.scheduleSettings(*req.Body, in) })
	if err != nil {
		return nil, err
	}
	return UpdateSchedule200JSONResponse(toSchedule(s)), nil
}

// DeleteSchedule removes a schedule.
func (h *handlers) DeleteSchedule(ctx context.Context, req DeleteScheduleRequestObject) (DeleteScheduleResponseObject, error) {
	id, err := scheduleID(req.ID)
	if err != nil {
		return nil, err
	}
	return DeleteSchedule204Response{}, h.Jobs.DeleteSchedule(ctx, projectOf(ctx).ID, id)
}

// RunSchedule makes a schedule due now.
func (h *handlers) RunSchedule(ctx context.Context, req RunScheduleRequestObject) (RunScheduleResponseObject, error) {
	id, err := scheduleID(req.ID)
	if err != nil {
		return nil, err
	}
	t, replayed, err := h.Jobs.RunSchedule(ctx, projectOf(ctx).ID, id, deref(req.Params.IdempotencyKey, ""))
	if err != nil {
		return nil, err
	}
	return RunSchedule202JSONResponse{Body: toTick(t), Headers: RunSchedule202ResponseHeaders{IdempotencyReplayed: replayed}}, nil
}

// PreviewSchedule lists when a schedule will be due.
func (h *handlers) PreviewSchedule(ctx context.Context, req PreviewScheduleRequestObject) (PreviewScheduleResponseObject, error) {
	id, err := scheduleID(req.ID)
	if err != nil {
		return nil, err
	}
	times, err := h.Jobs.PreviewSchedule(ctx, projectOf(ctx).ID, id, deref(req.Params.N, 10))
	if err != nil {
		return nil, err
	}
	return PreviewSchedule200JSONResponse{Data: each(times, toDueTime)}, nil
}

// PreviewSettings does so for a schedule that isn't saved.
func (h *handlers) PreviewSettings(ctx context.Context, req PreviewSettingsRequestObject) (PreviewSettingsResponseObject, error) {
	in := jobs.DefaultSchedule()
	in.Cron, in.TimeZone, in.StartsAt, in.EndsAt = req.Body.Cron, deref(req.Body.TimeZone, in.TimeZone), req.Body.StartsAt, req.Body.EndsAt
	times, err := h.Jobs.PreviewSettings(ctx, in, deref(req.Body.N, 10))
	if err != nil {
		return nil, err
	}
	return PreviewSettings200JSONResponse{Data: each(times, toDueTime)}, nil
}

// ListTicks pages through what came of a schedule's due times.
func (h *handlers) ListTicks(ctx context.Context, req ListTicksRequestObject) (ListTicksResponseObject, error) {
	id, err := scheduleID(req.ID)
	if err != nil {
		return nil, err
	}
	key, err := cursor(req.Params.Cursor)
	if err != nil {
		return nil, err
	}
	var before *time.Time
	if key != "" {
		at, err := time.Parse(time.RFC3339Nano, key)
		if err != nil {
			return nil, badCursor()
		}
		before = &at
	}
	project, limit := projectOf(ctx).ID, deref(req.Params.Limit, 50)
	rows, err := h.Read.Ticks(ctx, project, id, string(deref(req.Params.State, "")), before, limit+1)
	if err == nil && len(rows) == 0 {
		_, err = h.Read.Schedule(ctx, project, id) // is it there at all?
	}
	if err != nil {
		return nil, fmt.Errorf("api: ticks: %w", err)
	}
	rows, next := page(rows, limit, func(t store.Tick) string { return t.DueAt.UTC().Format(time.RFC3339Nano) })
	return ListTicks200JSONResponse{Data: each(rows, toTick), NextCursor: next}, nil
}

func toSchedule(s store.Schedule) Schedule {
	return Schedule{
		ID: s.ID, Name: s.Name, Cron: s.Cron, TimeZone: s.TimeZone, StartsAt: utc(s.StartsAt), EndsAt: utc(s.EndsAt), JitterSeconds: s.JitterSeconds,
		Enabled: s.Enabled, Overlap: Overlap(s.Overlap), CatchUp: CatchUp(s.CatchUp), CatchUpLimit: s.CatchUpLimit, Batch: scheduledBatch(s),
		JobCount: s.JobCount, NextDueAt: utc(s.NextDueAt), NextStartAt: utc(s.NextStartAt), CreatedAt: s.CreatedAt.UTC(), UpdatedAt: s.UpdatedAt.UTC(),
		Export: s.Export,
	}
}

// scheduledBatch puts what is stored apart together again, the jobs' bytes as they were sent.
func scheduledBatch(s store.Schedule) json.RawMessage {
	out := bytes.TrimSuffix(bytes.TrimSpace(s.Batch), []byte("}"))
	out = out[:len(out):len(out)]
	if s.InputsOf != nil {
		out = fmt.Appendf(out, `,"inputs_of":"%s"`, s.InputsOf)
	}
	if s.Jobs != nil {
		out = append(append(out, `,"jobs":`...), s.Jobs...)
	}
	return append(out, '}')
}

func toDueTime(d jobs.DueTime) DueTime {
	return DueTime{DueAt: d.DueAt.UTC(), StartAt: d.StartAt.UTC(), Local: d.Local}
}

func toTick(t store.Tick) Tick {
	var export *TickExport
	if t.ExportID != nil {
		export = &TickExport{ID: *t.ExportID, State: ExportState(deref(t.ExportState, "")), Error: t.ExportError}
	}
	return Tick{
		ScheduleID: t.ScheduleID, DueAt: t.DueAt.UTC(), Manual: t.Manual, StartAt: t.StartAt.UTC(), State: TickState(t.State), Reason: t.Reason,
		BatchID: t.BatchID, BatchState: t.BatchState, Attempts: t.Attempts, CreatedAt: t.CreatedAt.UTC(), StartedAt: utc(t.StartedAt), EndedAt: utc(t.EndedAt),
		Export: export,
	}
}
