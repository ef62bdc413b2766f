package api

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/store"
)

const (
	sampleGap   = time.Second // least time between two samples
	sampleShare = 10          // and at least so many times what the last one took: counting a million jobs takes long
	sampleLimit = time.Minute // longest wait for a sample
	maxMissed   = 5           // samples in a row that may fail
	rateSpan    = 10 * time.Second
)

// hubs lets all who watch a batch share one sampling of it. A hub lives as long as it is watched.
type hubs struct {
	read batchReader
	log  *slog.Logger

	mu   sync.Mutex
	open map[uuid.UUID]*hub
}

// hub samples one batch.
type hub struct {
	watchers int // guarded by hubs.mu
	stop     context.CancelFunc
	done     chan struct{} // closed when nothing is sampled any more

	mu      sync.Mutex
	latest  *sample
	changed chan struct{} // closed by the next sample
}

// sample is a batch at one moment.
type sample struct {
	number   int64 // counts the hub's samples from 1
	progress BatchProgress
	ended    *Batch // the final batch, once it is
}

// join begins to watch a batch of a project, which the caller has found to be there. The caller must leave.
func (hs *hubs) join(ctx context.Context, b store.Batch) *hub {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	h := hs.open[b.ID]
	if h == nil {
		ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
		h = &hub{stop: stop, done: make(chan struct{}), changed: make(chan struct{})}
		hs.open[b.ID] = h
		go func() {
			defer close(h.done)
			defer stop()
			hs.run(ctx, h, b)
		}()
	}
	h.watchers++
	return h
}

// leave ends the sampling with the last watcher, and waits for it.
func (hs *hubs) leave(id uuid.UUID, h *hub) {
	hs.mu.Lock()
	h.watchers--
	last := h.watchers == 0
	if last {
		delete(hs.open, id)
	}
	hs.mu.Unlock()
	if last {
		h.stop()
		<-h.done
	}
}

// now returns the latest sample, nil before the first, and a channel that is closed when there is another.
func (h *hub) now() (*sample, <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.latest, h.changed
}

func (h *hub) publish(s *sample) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.latest = s
	close(h.changed)
	h.changed = make(chan struct{})
}

// run samples until the batch is final, is gone, can't be read for long, or nobody watches any more.
func (hs *hubs) run(ctx context.Context, h *hub, b store.Batch) {
	var pace smoothed
	missed := 0
	for n := int64(1); ; {
		began := time.Now()
		row, stats, err := hs.read1(ctx, b)
		took := time.Since(began)
		switch {
		case err == nil:
			missed = 0
			s := &sample{number: n, progress: toProgress(row, stats, pace.perSecond(began, doneOf(stats)))}
			n++
			if row.FinishedAt != nil {
				ended := toBatch(row, &stats)
				s.ended = &ended
			}
			h.publish(s)
			if s.ended != nil {
				return
			}
		case ctx.Err() != nil || errors.Is(err, store.ErrNotFound):
			return
		default:
			if missed++; missed > maxMissed {
				hs.log.ErrorContext(ctx, "event streams broke off", "batch_id", b.ID, "err", err)
				return
			}
		}
		rest := time.NewTimer(max(sampleGap, sampleShare*took))
		select {
		case <-rest.C:
		case <-ctx.Done():
			rest.Stop()
			return
		}
	}
}

func (hs *hubs) read1(ctx context.Context, b store.Batch) (store.Batch, store.BatchStats, error) {
	ctx, cancel := context.WithTimeout(ctx, sampleLimit)
	defer cancel()
	row, err := hs.read.Batch(ctx, b.ProjectID, b.ID)
	if err != nil {
		return store.Batch{}, store.BatchStats{}, err
	}
	stats, err := hs.read.BatchStats(ctx, row)
	return row, stats, err
}

func doneOf(s store.BatchStats) int64 { return s.Succeeded + s.Failed + s.Cancelled }

// smoothed is the rate at which a counter grows, an exponential mean over rateSpan.
type smoothed struct {
	at    time.Time
	count int64
	rate  float64
	known bool
}

func (s *smoothed) perSecond(now time.Time, count int64) float64 {
	if dt := now.Sub(s.at); !s.at.IsZero() && dt > 0 {
		rate := max(float64(count-s.count), 0) / dt.Seconds() // jobs that are retried make it fall
		if s.known {
			rate = s.rate + (rate-s.rate)*(1-math.Exp(-dt.Seconds()/rateSpan.Seconds()))
		}
		s.rate, s.known = rate, true
	}
	s.at, s.count = now, count
	return s.rate
}

func toProgress(b store.Batch, s store.BatchStats, rate float64) BatchProgress {
	whole := toBatch(b, &s)
	p := BatchProgress{
		State: whole.State, Pause: whole.Pause, Stalled: whole.StalledAt != nil, Total: b.TotalJobs, Done: doneOf(s), Rate: math.Round(rate*100) / 100,
		CostMicrousd: whole.Stats.CostMicrousd, Calls: s.Calls, Jobs: whole.Stats.Jobs, Cache: whole.Stats.Cache,
	}
	left := p.Total - p.Done
	if p.Rate > 0 && p.State == BatchStateRunning {
		eta := int64(math.Ceil(float64(left) / p.Rate))
		p.EtaSeconds = &eta
	}
	answered := s.Misses + s.Bypassed // jobs that caches answered say nothing of what the others will cost
	switch {
	case left == 0:
		p.ProjectedCostMicrousd = p.CostMicrousd
	case answered > 0 && p.CostMicrousd != nil:
		projected := s.CostMicrousd + int64(math.Round(float64(left)*float64(s.CostMicrousd)/float64(answered)))
		p.ProjectedCostMicrousd = &projected
	}
	return p
}
