package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"batchwright/internal/client"
)

func batch(state string, total, succeeded, calls int64) client.Batch {
	cost := calls * 1500
	return client.Batch{
		ID: "b", State: state, TotalJobs: total, CreatedAt: time.Unix(0, 0), Stats: client.Stats{
			Jobs: client.JobCounts{Succeeded: succeeded}, Calls: calls, CostMicroUSD: &cost,
		},
	}
}

func TestPlainProgressIsFewLines(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	now := time.Unix(0, 0)
	d := newLines(&b, []string{"documents", "products"}, func() time.Time { return now })
	for i := range 100 { // ten seconds
		now = now.Add(100 * time.Millisecond)
		d.show(0, batch("running", 1000, int64(10*i), int64(10*i)))
		if i%10 == 0 {
			d.show(1, batch("planning", 3, 0, 0))
		}
	}
	last := batch("completed", 1000, 0, 0)
	last.Stats.Cache.ResultHit, last.Stats.Jobs.Succeeded, last.Stats.Jobs.Failed = 999, 999, 1
	d.show(0, last)
	d.show(1, batch("completed", 3, 3, 1))
	d.close()
	golden(t, "progress.txt", b.Bytes())
}

func TestSummaries(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	end := time.Unix(61, 234_567_890)
	full := client.Batch{
		State: "completed", TotalJobs: 12345, CreatedAt: time.Unix(0, 0), FinishedAt: &end,
		Stats: client.Stats{
			Jobs:  client.JobCounts{Succeeded: 12000, Failed: 1, Cancelled: 344},
			Cache: client.CacheCounts{ResultHit: 1, Coalesced: 2, GatewayHit: 3, Miss: 4, Bypass: 5},
			Calls: 1, UncertainCalls: 1, InputTokens: 1234, OutputTokens: 5, CostMicroUSD: nil,
		},
	}
	for _, s := range []client.Batch{full, batch("completed", 1, 1, 2), batch("running", 5, 0, 0), {}} {
		fmt.Fprintln(&b, summary(s))
	}
	golden(t, "summary.txt", b.Bytes())
}

func TestVerdictNeedsEveryJobToSucceed(t *testing.T) {
	t.Parallel()
	if err := verdict(batch("completed", 3, 3, 1)); err != nil {
		t.Error(err)
	}
	for _, b := range []client.Batch{batch("completed", 3, 2, 1), batch("cancelled", 3, 3, 1), batch("failed", 3, 0, 0)} {
		if _, ok := errors.AsType[incomplete](verdict(b)); !ok {
			t.Errorf("%s: got %v", b.State, verdict(b))
		}
	}
}

// A bar that is left behind would wait for ever.
func TestBarsEndWithTheirBatchesOrWithoutThem(t *testing.T) {
	t.Parallel()
	f, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	batches := []client.Batch{batch("planning", 10, 0, 0), batch("planning", 0, 0, 0), batch("planning", 5, 0, 0)}
	d := newBars(f, []string{"one", "none", "broken"}, batches)
	d.show(0, batch("running", 10, 4, 4))
	d.show(0, batch("completed", 10, 10, 10))
	d.show(1, batch("completed", 0, 0, 0))
	d.show(2, batch("running", 5, 2, 2))
	d.close()
}

func TestFollowStopsAllWhenOneFails(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/batches/bad" {
			refuse(w, http.StatusNotFound, `{"detail":"there is no such thing in this project"}`)
			return
		}
		reply(w, http.StatusOK, `{"id":"good","state":"running","total_jobs":1}`)
	})
	c, err := client.New(url, "k")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var out bytes.Buffer
	a := &app{getenv: func(string) string { return "" }}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err = a.follow(ctx, &out, c, []string{"good", "bad"}, []client.Batch{{ID: "good"}, {ID: "bad"}})
	if p, ok := errors.AsType[*client.Problem](err); !ok || p.Status != http.StatusNotFound {
		t.Errorf("got %v", err)
	}
}
