package queue_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"batchwright/internal/queue"
	"batchwright/internal/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTicketsArriveOnceAndWhole(t *testing.T) {
	t.Parallel()
	url := queuetest.URL(t)
	c, err := queue.NewClient(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if waiting, active, err := c.Depth(); err != nil || waiting != 0 || active != 0 {
		t.Errorf("depth of an empty Redis: %d, %d, %v", waiting, active, err)
	}
	batch := uuid.New()
	sent := []queue.Ticket{
		{ID: 1, BatchID: batch, Kind: "generate", Purpose: "plan", FirstSeq: 1, LastSeq: 9, Jobs: 9},
		{ID: 2, BatchID: batch, Kind: "generate", Purpose: "run", FirstSeq: 1, LastSeq: 5, Jobs: 4},
		{ID: 3, BatchID: batch, Kind: "chat", Purpose: "retry", Jobs: 7},
	}
	for range 2 { // posting again what is queued doubles nothing
		if err := c.Post(t.Context(), sent); err != nil {
			t.Fatal(err)
		}
	}
	if waiting, _, err := c.Depth(); err != nil || waiting != 3 {
		t.Errorf("depth: %d, %v; want 3", waiting, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	got := make(chan queue.Ticket, 10)
	served := make(chan error, 1)
	go func() {
		served <- queue.Serve(ctx, url, 4, time.Second, slog.New(slog.DiscardHandler), func(_ context.Context, t queue.Ticket) { got <- t })
	}()
	seen := map[int64]queue.Ticket{}
	for len(seen) < len(sent) {
		select {
		case ticket := <-got:
			if _, twice := seen[ticket.ID]; twice {
				t.Errorf("ticket %d came twice", ticket.ID)
			}
			seen[ticket.ID] = ticket
		case <-ctx.Done():
			t.Fatalf("got %v", seen)
		}
	}
	for _, want := range sent {
		if seen[want.ID] != want {
			t.Errorf("got %+v, want %+v", seen[want.ID], want)
		}
	}
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

func TestBadURLIsNotEchoed(t *testing.T) {
	t.Parallel()
	_, err := queue.NewClient("redis+bad://:hunter2@host")
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("error %v: want one without the password", err)
	}
}
