package process_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func named(prefix string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"variables":{"name":"%s %d"}}`+"\n", prefix, i)
	}
	return b.String()
}

// A large batch of slow calls has every place for calls, and more of its jobs are claimed and posted. A small batch of the same project
// passes it by, and another project gets its share.
func TestASmallBatchPassesALargeOneAndAnotherProjectGetsItsShare(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"SIMULATOR_LATENCY": "2s", "SIMULATOR_LATENCY_JITTER": "1s", "WORKER_CONCURRENCY": "64"})
	s.saveTemplate(t, blurb)
	large := accepted(t, s.generate(t, "", named("large", 20_000)))
	await(t, "the large batch to have all places", func() bool { return s.batch(t, large.ID).Stats.Jobs.Running >= 64 })
	began := time.Now()
	small := accepted(t, s.generate(t, "", named("small", 10)))
	b := s.finish(t, small.ID)
	took := time.Since(began)
	if b.Stats.Jobs.Succeeded != 10 {
		t.Errorf("small batch %+v", b)
	}
	if took > 20*time.Second { // three seconds at most are its calls; the rest is what the tests beside this one leave of the machine
		t.Errorf("ten jobs took %v beside a large batch", took)
	}
	t.Logf("ten jobs took %v beside 20,000", took)

	other := &system{url: s.url, env: s.env, key: s.newKey(t, "other")}
	other.saveTemplate(t, blurb)
	second := accepted(t, other.generate(t, "", named("other", 20_000)))
	await(t, "the other project to run", func() bool { return other.batch(t, second.ID).Stats.Jobs.Succeeded > 0 })
	mine, theirs := s.batch(t, large.ID).Stats.Jobs.Succeeded, other.batch(t, second.ID).Stats.Jobs.Succeeded
	var m, o int64
	await(t, "jobs of both", func() bool {
		m, o = s.batch(t, large.ID).Stats.Jobs.Succeeded-mine, other.batch(t, second.ID).Stats.Jobs.Succeeded-theirs
		return m+o >= 500
	})
	t.Logf("%d of the first project, %d of the other", m, o)
	if o < 150 {
		t.Errorf("of 500 jobs that ended, the other project had %d", o)
	}
	for _, c := range []struct {
		s  *system
		id string
	}{{s, large.ID}, {other, second.ID}} {
		if r := c.s.do(t, http.MethodPost, "/v1/batches/"+c.id+"/cancel", "application/json", strings.NewReader(`{"grace_seconds":0}`)); r.status/100 != 2 {
			t.Errorf("cancel: status %d: %s", r.status, r.body)
		}
	}
}
