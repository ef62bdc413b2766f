package store_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

func (b *bench) webhook(t *testing.T, url string, events ...string) store.Webhook {
	t.Helper()
	id, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	w, err := b.db.CreateWebhook(t.Context(), store.Webhook{ID: id, ProjectID: b.project, URL: url, Events: events})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (b *bench) deliveries(t *testing.T, w store.Webhook, state string) []store.Delivery {
	t.Helper()
	all, err := b.db.Deliveries(t.Context(), b.project, w.ID, state, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func (b *bench) claimDeliveries(t *testing.T, lease time.Duration, most, each int, busy ...uuid.UUID) []store.Outgoing {
	t.Helper()
	out, err := b.db.ClaimDeliveries(t.Context(), lease, most, each, busy)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (b *bench) end(t *testing.T, d store.Outgoing, r store.DeliveryResult) (disabled string) {
	t.Helper()
	disabled, err := b.db.EndDelivery(t.Context(), d, r)
	if err != nil {
		t.Fatal(err)
	}
	return disabled
}

// TestTheEndOfABatchIsInTheOutbox of those webhooks that asked for it, with the frozen counts.
func TestTheEndOfABatchIsInTheOutbox(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	wants := b.webhook(t, "https://a.example", store.EventCompleted, store.EventFailed)
	also := b.webhook(t, "https://b.example", store.EventCompleted)
	other := b.webhook(t, "https://c.example", store.EventCancelled)
	off := b.webhook(t, "https://d.example", store.EventCompleted)
	no := false
	if _, err := b.db.UpdateWebhook(t.Context(), b.project, off.ID, store.WebhookChange{Enabled: &no}); err != nil {
		t.Fatal(err)
	}
	batch := b.submit(t, "use", distinct(2)...)
	if done, err := b.db.FinishBatch(t.Context(), batch.ID); err != nil || done {
		t.Fatalf("finished before its jobs: %v, %v", done, err)
	}
	if n := len(b.deliveries(t, wants, "")); n != 0 {
		t.Fatalf("%d messages before the end", n)
	}
	ticket := b.dispatch(t, store.Grant{Batch: batch.ID, Run: 1, Size: 2})[0]
	b.claim(t, ticket)
	for i, key := range distinct(2) {
		c, s := b.done(batch, ticket.ID, int32(i+1), key)
		if _, err := b.db.Settle(t.Context(), nil, []store.Completion{c}, []store.Settlement{s}, false); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.db.EndTicket(t.Context(), ticket.ID, b.worker.ID); err != nil {
		t.Fatal(err)
	}
	if done, err := b.db.FinishBatch(t.Context(), batch.ID); err != nil || !done {
		t.Fatalf("finish: %v, %v", done, err)
	}
	if len(b.deliveries(t, other, "")) != 0 || len(b.deliveries(t, off, "")) != 0 || len(b.deliveries(t, also, "pending")) != 1 {
		t.Error("not exactly the webhooks that asked for it were told")
	}
	all := b.deliveries(t, wants, "pending")
	if len(all) != 1 || *all[0].BatchID != batch.ID || all[0].Type != "batch.completed" {
		t.Fatalf("deliveries: %+v", all)
	}
	var body struct {
		Type      string
		Timestamp time.Time
		Data      struct {
			BatchID uuid.UUID `json:"batch_id"`
			State   string
			Counts  struct{ Total, Succeeded, Failed, Cancelled int64 }
			Cost    *int64 `json:"cost_microusd"`
		}
	}
	if err := json.Unmarshal(all[0].Payload, &body); err != nil {
		t.Fatal(err)
	}
	if d := body.Data; body.Type != "batch.completed" || time.Since(body.Timestamp).Abs() > time.Minute || d.BatchID != batch.ID || d.State != "completed" ||
		d.Counts.Total != 2 || d.Counts.Succeeded != 2 || d.Counts.Failed != 0 || d.Cost == nil {
		t.Errorf("payload %s", all[0].Payload)
	}
}

// TestCancelledBatchesSayHow covers an event whose name follows the state that a batch ends in.
func TestCancelledBatchesSayHow(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	w := b.webhook(t, "https://a.example", store.EventCancelled, store.EventCompleted)
	batch := b.submit(t, "use", distinct(3)...)
	if _, err := b.db.CancelBatch(t.Context(), b.project, batch.ID, nil); err != nil {
		t.Fatal(err)
	}
	if done, err := b.db.FinishBatch(t.Context(), batch.ID); err != nil || !done {
		t.Fatalf("finish: %v, %v", done, err)
	}
	if all := b.deliveries(t, w, ""); len(all) != 1 || all[0].Type != "batch.cancelled" {
		t.Fatalf("deliveries: %+v", all)
	}
}

// TestPausesAreTold once each, whoever else pauses it then, and not those that have yet to come.
func TestPausesAreTold(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	w := b.webhook(t, "https://a.example", store.EventPaused, store.EventResumed)
	batch := b.submit(t, "use", distinct(3)...)
	turn := func(f func(context.Context, uuid.UUID, uuid.UUID) (store.Batch, error)) {
		t.Helper()
		for range 2 { // again changes nothing
			if _, err := f(t.Context(), b.project, batch.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	pause := func(reason string) func(context.Context, uuid.UUID, uuid.UUID) (store.Batch, error) {
		return func(ctx context.Context, project, id uuid.UUID) (store.Batch, error) {
			return b.db.PauseBatch(ctx, project, id, reason, "why")
		}
	}
	turn(pause(store.PauseBudget))
	turn(pause(store.PauseRequested))
	turn(b.db.ResumeBatch)
	var got []string
	for _, d := range slices.Backward(b.deliveries(t, w, "")) {
		var p struct {
			Data struct {
				State       string
				PauseReason string `json:"pause_reason"`
			}
		}
		if err := json.Unmarshal(d.Payload, &p); err != nil {
			t.Fatal(err)
		}
		got = append(got, d.Type+" "+p.Data.State+" "+p.Data.PauseReason)
	}
	if want := []string{"batch.paused paused budget", "batch.resumed running "}; !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	storetest.Exec(t, b.url, `update batches set state = 'planning', started_at = null where id = $1`, batch.ID)
	turn(pause(store.PauseRequested))
	turn(b.db.ResumeBatch)
	if n := len(b.deliveries(t, w, "")); n != 2 {
		t.Errorf("%d messages, though the batch wasn't running", n)
	}
	turn(pause(store.PauseRequested))
	if started, err := b.db.StartBatch(t.Context(), batch.ID, nil); err != nil || !started {
		t.Fatalf("start: %v, %v", started, err)
	}
	if all := b.deliveries(t, w, ""); len(all) != 3 || all[0].Type != store.EventPaused {
		t.Errorf("told %+v of a pause that came with the start", all)
	}
}

// TestUploadsThatBreakOffAreTold, but not submissions that were refused: of those no batch is left.
func TestUploadsThatBreakOffAreTold(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	w := b.webhook(t, "https://a.example", store.EventFailed)
	submit := func(end error) {
		t.Helper()
		id, err := uuid.NewV7()
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = b.db.CreateBatch(t.Context(), store.NewBatch{ID: id, ProjectID: b.project, Kind: "generate", Route: []byte(`{}`), Params: []byte(`{}`),
			Metadata: []byte(`{}`), OnInvalid: "refuse", Cache: "use"}, func(yield func(store.Chunk, error) bool) {
			_ = yield(store.Chunk{Inputs: []store.NewInput{{Seq: 1, Input: []byte(`{}`)}}}, nil) && yield(store.Chunk{}, end)
		}, func() (int32, [32]byte) { return 1, [32]byte{1} })
		if err == nil {
			t.Fatal("a submission without an end was accepted")
		}
	}
	submit(fmt.Errorf("refused"))
	if all := b.deliveries(t, w, ""); len(all) != 0 {
		t.Errorf("told of a refusal: %+v", all)
	}
	submit(store.ErrBroken)
	if all := b.deliveries(t, w, ""); len(all) != 1 || all[0].Type != store.EventFailed {
		t.Errorf("told %+v, want one failure", all)
	}
}

// tests puts n messages into the outbox of each webhook.
func (b *bench) tests(t *testing.T, n int, hooks ...store.Webhook) {
	t.Helper()
	for range n {
		for _, w := range hooks {
			if _, err := b.db.TestWebhook(t.Context(), b.project, w.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestClaimsAreSharedOut(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	slow, quick := b.webhook(t, "https://a.example", store.EventFailed), b.webhook(t, "https://b.example", store.EventFailed)
	b.tests(t, 20, slow)
	b.tests(t, 2, quick)
	count := func(out []store.Outgoing, w store.Webhook) (n int) {
		for _, o := range out {
			if o.WebhookID == w.ID {
				n++
			}
		}
		return n
	}
	first := b.claimDeliveries(t, time.Minute, 64, 4)
	if count(first, slow) != 4 || count(first, quick) != 2 {
		t.Errorf("claimed %d and %d, want 4 of the long queue and both of the short one", count(first, slow), count(first, quick))
	}
	if again := b.claimDeliveries(t, time.Minute, 64, 4, slow.ID); len(again) != 0 {
		t.Errorf("claimed %d of a busy endpoint", len(again))
	}
	if again := b.claimDeliveries(t, time.Minute, 3, 4); len(again) != 3 {
		t.Errorf("claimed %d, want the 3 that there is room for", len(again))
	}
}

// TestNoMessageIsClaimedTwice by workers that claim at the same time.
func TestNoMessageIsClaimedTwice(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	var hooks []store.Webhook
	for range 10 {
		hooks = append(hooks, b.webhook(t, "https://a.example", store.EventFailed))
	}
	b.tests(t, 6, hooks...)
	var mu sync.Mutex
	seen := map[string]int{}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for range 8 {
				out, err := b.db.ClaimDeliveries(t.Context(), time.Minute, 5, 2, nil)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				for _, o := range out {
					seen[o.ID]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, o := range b.claimDeliveries(t, time.Minute, 100, 100) { // what the racing ones left
		seen[o.ID]++
	}
	if len(seen) != 60 {
		t.Errorf("%d messages claimed, want 60", len(seen))
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("%s was claimed %d times", id, n)
		}
	}
}

// TestALostClaimIsDueAgain under the same id; what the one who lost it says comes too late.
func TestALostClaimIsDueAgain(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	w := b.webhook(t, "https://a.example", store.EventFailed)
	b.tests(t, 1, w)
	lost := b.claimDeliveries(t, time.Millisecond, 1, 1)
	if len(lost) != 1 || lost[0].Attempts != 1 {
		t.Fatalf("claimed %+v", lost)
	}
	var found []store.Outgoing
	for deadline := time.Now().Add(10 * time.Second); len(found) == 0 && time.Now().Before(deadline); {
		found = b.claimDeliveries(t, time.Minute, 1, 1)
	}
	if len(found) != 1 || found[0].ID != lost[0].ID || found[0].Attempts != 2 {
		t.Fatalf("claimed %+v, want %s again", found, lost[0].ID)
	}
	b.end(t, lost[0], store.DeliveryResult{State: "failed", Status: 500})
	if d := b.deliveries(t, w, "")[0]; d.State != "pending" || d.LastStatus != nil {
		t.Errorf("after a word that came too late: %+v", d)
	}
	b.end(t, found[0], store.DeliveryResult{State: "delivered", Status: 204})
	if d := b.deliveries(t, w, "")[0]; d.State != "delivered" || *d.LastStatus != 204 || d.DeliveredAt == nil {
		t.Errorf("after the delivery: %+v", d)
	}
	again, err := b.db.Redeliver(t.Context(), b.project, w.ID, lost[0].ID)
	if err != nil || again.State != "pending" || again.Attempts != 0 {
		t.Errorf("redeliver: %+v, %v", again, err)
	}
	if out := b.claimDeliveries(t, time.Minute, 1, 1); len(out) != 1 || out[0].ID != lost[0].ID {
		t.Errorf("claimed %+v, want %s once more", out, lost[0].ID)
	}
}

// TestEndpointsAreDisabled at once when they are gone, and when they fail for five days; what waits for them is given up.
func TestEndpointsAreDisabled(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	gone, failing := b.webhook(t, "https://a.example", store.EventFailed), b.webhook(t, "https://b.example", store.EventFailed)
	b.tests(t, 3, gone, failing)
	fail := store.DeliveryResult{State: "pending", Status: 500, Error: "answered 500", RetryIn: time.Hour}
	var last store.Outgoing
	for _, o := range b.claimDeliveries(t, time.Minute, 10, 1) {
		if o.WebhookID == gone.ID {
			if why := b.end(t, o, store.DeliveryResult{State: "failed", Status: 410, Gone: true}); why != "gone" {
				t.Errorf("disabled because %q, want gone", why)
			}
			continue
		}
		if why := b.end(t, o, fail); why != "" {
			t.Errorf("disabled by one failure: %s", why)
		}
	}
	storetest.Exec(t, b.url, `update webhooks set failing_since = now() - interval '4 days 23 hours' where id = $1`, failing.ID)
	last = b.claimDeliveries(t, time.Minute, 10, 1, gone.ID)[0]
	if why := b.end(t, last, fail); why != "" {
		t.Errorf("disabled before five days: %s", why)
	}
	storetest.Exec(t, b.url, `update webhooks set failing_since = now() - interval '5 days 1 hour' where id = $1`, failing.ID)
	last = b.claimDeliveries(t, time.Minute, 10, 1, gone.ID)[0]
	if why := b.end(t, last, fail); why != "failing" {
		t.Errorf("disabled because %q, want failing", why)
	}
	if out := b.claimDeliveries(t, time.Minute, 10, 10); len(out) != 0 {
		t.Errorf("claimed %d messages of disabled endpoints", len(out))
	}
	if err := b.db.CloseDeliveries(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, w := range []store.Webhook{gone, failing} {
		if n := len(b.deliveries(t, w, "pending")); n != 0 {
			t.Errorf("%d messages still wait for %s", n, w.URL)
		}
		if _, err := b.db.TestWebhook(t.Context(), b.project, w.ID); err != store.ErrNotFound {
			t.Errorf("a disabled endpoint was sent a test: %v", err)
		}
	}
	yes := true
	w, err := b.db.UpdateWebhook(t.Context(), b.project, failing.ID, store.WebhookChange{Enabled: &yes})
	if err != nil || !w.Enabled || w.DisabledReason != nil || w.FailingSince != nil {
		t.Errorf("enabled again: %+v, %v", w, err)
	}
}

func TestASuccessEndsAStreakOfFailures(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	w := b.webhook(t, "https://a.example", store.EventFailed)
	b.tests(t, 2, w)
	since := func() *time.Time {
		w, err := b.db.Webhook(t.Context(), b.project, w.ID)
		if err != nil {
			t.Fatal(err)
		}
		return w.FailingSince
	}
	b.end(t, b.claimDeliveries(t, time.Minute, 1, 1)[0], store.DeliveryResult{State: "pending", Status: 500, RetryIn: time.Hour})
	if since() == nil {
		t.Error("a failure isn't noted")
	}
	b.end(t, b.claimDeliveries(t, time.Minute, 1, 1)[0], store.DeliveryResult{State: "delivered", Status: 200})
	if since() != nil {
		t.Error("a delivery doesn't end the failures")
	}
}

func TestOldMessagesAreTrimmed(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	w := b.webhook(t, "https://a.example", store.EventFailed)
	b.tests(t, 3, w)
	done := b.claimDeliveries(t, time.Minute, 2, 2)
	for _, o := range done {
		b.end(t, o, store.DeliveryResult{State: "delivered", Status: 200})
	}
	storetest.Exec(t, b.url, `update outbox set created_at = now() - interval '31 days' where id <> $1`, done[0].ID)
	if n, err := b.db.TrimOutbox(t.Context()); err != nil || n != 1 {
		t.Errorf("trimmed %d, %v; want the one that is old and done", n, err)
	}
	if n := len(b.deliveries(t, w, "")); n != 2 {
		t.Errorf("%d left, want 2", n)
	}
	if err := b.db.DeleteWebhook(t.Context(), b.project, w.ID); err != nil {
		t.Fatal(err)
	}
	if n := storetest.Scalar[int64](t, b.url, `select count(*) from outbox`); n != 0 {
		t.Errorf("%d messages outlive their webhook", n)
	}
}

func TestWebhooksBelongToTheirProject(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	w := b.webhook(t, "https://a.example", store.EventFailed)
	b.tests(t, 1, w)
	id := b.deliveries(t, w, "")[0].ID
	stranger := uuid.New()
	_, get := b.db.Webhook(t.Context(), stranger, w.ID)
	_, update := b.db.UpdateWebhook(t.Context(), stranger, w.ID, store.WebhookChange{Events: []string{store.EventFailed}})
	_, rotate := b.db.RotateWebhook(t.Context(), stranger, w.ID)
	_, test := b.db.TestWebhook(t.Context(), stranger, w.ID)
	_, again := b.db.Redeliver(t.Context(), stranger, w.ID, id)
	for i, err := range []error{get, update, rotate, test, again, b.db.DeleteWebhook(t.Context(), stranger, w.ID)} {
		if err != store.ErrNotFound {
			t.Errorf("%d: a stranger got %v", i, err)
		}
	}
	if rows, err := b.db.Deliveries(t.Context(), stranger, w.ID, "", 0, 10); err != nil || len(rows) != 0 {
		t.Errorf("a stranger reads %d deliveries, %v", len(rows), err)
	}
}

// TestStallsAreFoundOnce and only in batches that run, and end with progress.
func TestStallsAreFoundOnce(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	w := b.webhook(t, "https://a.example", store.EventStalled)
	batch, busy := b.submit(t, "use", distinct(3)...), b.submit(t, "use", "x", "y")
	find := func() []uuid.UUID {
		t.Helper()
		found, err := b.db.MarkStalled(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	if found := find(); len(found) != 0 {
		t.Errorf("stalled right after the start: %v", found)
	}
	storetest.Exec(t, b.url, `update batches set started_at = now() - interval '2 minutes'`)
	if noted, err := b.db.TouchProgress(t.Context(), []uuid.UUID{busy.ID}); err != nil || len(noted) != 1 {
		t.Fatalf("touch: %v, %v", noted, err)
	}
	if found := find(); !slices.Equal(found, []uuid.UUID{batch.ID}) {
		t.Errorf("stalled: %v, want %s", found, batch.ID)
	}
	if found := find(); len(found) != 0 {
		t.Errorf("found again: %v", found)
	}
	if all := b.deliveries(t, w, ""); len(all) != 1 || all[0].Type != "batch.stalled" || *all[0].BatchID != batch.ID {
		t.Errorf("deliveries: %+v", all)
	}
	row, err := b.db.AnyBatch(t.Context(), batch.ID)
	if err != nil || row.StalledAt == nil {
		t.Errorf("stalled_at %v, %v", row.StalledAt, err)
	}
	if _, err := b.db.TouchProgress(t.Context(), []uuid.UUID{batch.ID}); err != nil {
		t.Fatal(err)
	}
	if row, err = b.db.AnyBatch(t.Context(), batch.ID); err != nil || row.StalledAt != nil {
		t.Errorf("stalled_at %v after progress, %v", row.StalledAt, err)
	}
	storetest.Exec(t, b.url, `update batches set state = 'paused', pause_reason = 'requested', progress_at = null`)
	if found := find(); len(found) != 0 {
		t.Errorf("a paused batch counts as stalled: %v", found)
	}
}

// TestJobsThatEndUnseenAreProgress: their leader is in another batch, so no worker notes it.
func TestJobsThatEndUnseenAreProgress(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	batch := b.submit(t, "use", distinct(3)...)
	storetest.Exec(t, b.url, `update batches set started_at = now() - interval '2 minutes'`)
	storetest.Exec(t, b.url, `update jobs set state = 'failed', error_class = 'x', error_message = 'x', finished_at = now() where batch_id = $1 and seq = 2`, batch.ID)
	if found, err := b.db.MarkStalled(t.Context(), time.Minute); err != nil || len(found) != 0 {
		t.Errorf("stalled: %v, %v", found, err)
	}
	if storetest.Scalar[*time.Time](t, b.url, `select progress_at from batches where id = $1`, batch.ID) == nil {
		t.Error("the progress isn't noted, so that each look counts all jobs")
	}
}

// TestABatchThatIsBeingChangedIsTouchedLater rather than waited for.
func TestABatchThatIsBeingChangedIsTouchedLater(t *testing.T) {
	t.Parallel()
	b := setUp(t)
	one, two := b.submit(t, "use", "x"), b.submit(t, "use", "y")
	release := storetest.Lock(t, b.url, `select 1 from batches where id = $1 for update`, one.ID)
	noted, err := b.db.TouchProgress(t.Context(), []uuid.UUID{one.ID, two.ID})
	if err != nil || !slices.Equal(noted, []uuid.UUID{two.ID}) {
		t.Errorf("touched %v, %v; want only %s", noted, err, two.ID)
	}
	release()
	if noted, err = b.db.TouchProgress(t.Context(), []uuid.UUID{one.ID}); err != nil || len(noted) != 1 {
		t.Errorf("touched %v, %v", noted, err)
	}
}
