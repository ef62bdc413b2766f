package api_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"batchwright/internal/api"
	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// steered remembers what the domain was asked for.
type steered struct {
	*fake
	got string
	err error
}

func (s *steered) note(format string, a ...any) (store.Batch, error) {
	s.got = fmt.Sprintf(format, a...)
	b := someBatch()
	b.State, b.PauseReason, b.PauseDetail, b.PausedAt = "paused", ptr("budget"), ptr("the day's is used up"), ptr(time.Unix(1, 0))
	return b, s.err
}

func (s *steered) Cancel(_ context.Context, _, _ uuid.UUID, grace *int32) (store.Batch, error) {
	if grace == nil {
		return s.note("cancel")
	}
	return s.note("cancel %d", *grace)
}

func (s *steered) Pause(context.Context, uuid.UUID, uuid.UUID) (store.Batch, error) {
	return s.note("pause")
}

func (s *steered) Resume(context.Context, uuid.UUID, uuid.UUID) (store.Batch, error) {
	return s.note("resume")
}

func (s *steered) Update(_ context.Context, _, _ uuid.UUID, c store.BatchChange) (store.Batch, error) {
	show := func(set bool, to *int32) string {
		switch {
		case !set:
			return "as it is"
		case to == nil:
			return "none"
		}
		return fmt.Sprint(*to)
	}
	return s.note("concurrency %s, attempts %s, expiry set %t, name set %t, metadata %s", show(c.Concurrency.Set, c.Concurrency.To),
		show(c.MaxAttempts.Set, c.MaxAttempts.To), c.ExpiresAt.Set && c.ExpiresAt.To != nil, c.Name != nil, c.Metadata)
}

func (s *steered) Retry(_ context.Context, _, _ uuid.UUID, f store.RetryFilter) (store.Batch, store.Retried, error) {
	b, err := s.note("retry %v %v %v", f.States, f.Classes, f.CustomIDs)
	return b, store.Retried{Requeued: 3, Excluded: 1}, err
}

func (s *steered) RequeueDead(_ context.Context, _ uuid.UUID, f store.DeadLetterFilter) (jobs.Requeued, error) {
	_, err := s.note("requeue %s %s", f.Class, f.Kind)
	return jobs.Requeued{Jobs: 5, Batches: 2, More: true}, err
}

func (s *steered) DeadLetters(_ context.Context, _ uuid.UUID, f store.DeadLetterFilter, after *uuid.UUID, seq int32, limit int) (out []store.DeadLetter, _ error) {
	s.got = fmt.Sprint(f.Class, f.Kind, f.Since != nil, after != nil, seq, limit)
	for i := range limit {
		out = append(out, store.DeadLetter{BatchID: someBatch().ID, Kind: "chat", Seq: seq + int32(i) + 1, ErrorClass: "auth", ErrorMessage: "m", Attempts: 1})
	}
	return out, nil
}

func TestControlVerbsReachTheDomain(t *testing.T) {
	t.Parallel()
	s := &steered{fake: &fake{}}
	a := newAPI(t, s.fake, func(srv *api.Server) { srv.Jobs, srv.Read = s, s })
	path := "/v1/batches/" + someBatch().ID.String()
	asJSON := map[string]string{"Content-Type": "application/json"}
	for _, tt := range []struct {
		call   call
		status int
		got    string
	}{
		{call{method: "POST", path: path + "/pause"}, 200, "pause"},
		{call{method: "POST", path: path + "/resume"}, 200, "resume"},
		{call{method: "POST", path: path + "/cancel"}, 200, "cancel"},
		{call{method: "POST", path: path + "/cancel?grace_seconds=0"}, 200, "cancel 0"},
		{call{method: "POST", path: path + "/cancel?grace_seconds=-1"}, 400, ""},
		{call{method: "PATCH", path: path, header: asJSON, body: `{"concurrency":null,"max_attempts":7}`}, 200, "concurrency none, attempts 7, expiry set false, name set false, metadata "},
		{call{method: "PATCH", path: path, header: asJSON, body: `{"expires_at":"2030-01-01T00:00:00Z","name":"","metadata":{"k":"v"}}`}, 200,
			`concurrency as it is, attempts as it is, expiry set true, name set true, metadata {"k":"v"}`},
		{call{method: "PATCH", path: path, header: asJSON, body: `{"state":"completed"}`}, 400, ""},
		{call{method: "PATCH", path: path, header: asJSON, body: `{"priority":null}`}, 400, ""},
		{call{method: "POST", path: path + "/retry", header: asJSON, body: `{}`}, 200, "retry [] [] []"},
		{call{method: "POST", path: path + "/retry", header: asJSON, body: `{"statuses":["cancelled"],"error_classes":["auth"],"custom_ids":["a"]}`}, 200, "retry [cancelled] [auth] [a]"},
		{call{method: "POST", path: path + "/retry", header: asJSON, body: `{"statuses":["succeeded"]}`}, 400, ""},
		{call{method: "POST", path: "/v1/dead-letters/requeue", header: asJSON, body: `{}`}, 400, ""},
		{call{method: "POST", path: "/v1/dead-letters/requeue", header: asJSON, body: `{"all":true}`}, 200, "requeue  "},
		{call{method: "POST", path: "/v1/dead-letters/requeue", header: asJSON, body: `{"error_class":"auth","kind":"chat"}`}, 200, "requeue auth chat"},
	} {
		s.got = ""
		if w := a.do(t, tt.call); w.Code != tt.status || s.got != tt.got {
			t.Errorf("%s %s %s: status %d, asked for %q: %s", tt.call.method, tt.call.path, tt.call.body, w.Code, s.got, w.Body)
		}
	}
	paused := into[api.Batch](t, a.do(t, call{method: "POST", path: path + "/pause"}), 200)
	if paused.Pause == nil || paused.Pause.Reason != api.PauseReasonBudget || paused.Pause.Detail != "the day's is used up" || paused.Stats == nil {
		t.Errorf("%+v", paused)
	}
	s.err = &jobs.Error{Code: jobs.Conflict, Message: "a batch that is completed can't be paused"}
	if w := a.do(t, call{method: "POST", path: path + "/pause"}); w.Code != http.StatusConflict || !strings.Contains(w.Body.String(), "can't be paused") {
		t.Errorf("%d: %s", w.Code, w.Body)
	}
}

func TestDeadLettersPageByBatchAndJob(t *testing.T) {
	t.Parallel()
	s := &steered{fake: &fake{}}
	a := newAPI(t, s.fake, func(srv *api.Server) { srv.Jobs, srv.Read = s, s })
	p := into[api.DeadLetterPage](t, a.do(t, call{path: "/v1/dead-letters?limit=2&error_class=auth&kind=chat&since=2026-01-01T00:00:00Z"}), 200)
	if diff := cmp.Diff("authchattruefalse03", strings.ReplaceAll(s.got, " ", "")); diff != "" || len(p.Data) != 2 || p.NextCursor == nil || p.Data[1].Index != 2 {
		t.Fatalf("%s %+v", s.got, p)
	}
	p = into[api.DeadLetterPage](t, a.do(t, call{path: "/v1/dead-letters?limit=2&cursor=" + *p.NextCursor}), 200)
	if len(p.Data) != 2 || p.Data[0].Index != 3 || p.Data[0].JobID != someBatch().ID.String()+"-3" {
		t.Errorf("%+v", p)
	}
	if w := a.do(t, call{path: "/v1/dead-letters?cursor=eA"}); w.Code != 400 {
		t.Errorf("a made-up cursor: %d", w.Code)
	}
}
