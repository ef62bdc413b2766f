package jobs

import (
	"context"
	"time"

	"batchwright/internal/gateway"
)

// Meter is told what a worker does, for whoever counts it. Many may call at once.
type Meter interface {
	// Called is told of each call that was made, once it ended.
	Called(provider string, class gateway.Class, took time.Duration)
	// Settled is told of each attempt at a job that was settled: the job is succeeded, failed or waiting.
	Settled(state string)
	// Dispatched is told of each round of dispatch.
	Dispatched(took time.Duration)
}

type noMeter struct{}

func (noMeter) Called(string, gateway.Class, time.Duration) {}
func (noMeter) Settled(string)                              {}
func (noMeter) Dispatched(time.Duration)                    {}

// InFlight is how many calls the worker has in flight.
func (w *Worker) InFlight() int { return w.gate.inFlight() }

// timed tells the meter how long each round of dispatch took.
func (w *Worker) timed(dispatch func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		began := time.Now()
		defer func() { w.o.Meter.Dispatched(time.Since(began)) }()
		return dispatch(ctx)
	}
}
