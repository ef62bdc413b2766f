package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"batchwright/internal/store"
)

const keepAlive = 15 * time.Second // proxies and clients give a silent connection up, most after 30 s or a minute

// StreamEvents follows a batch to its end.
func (h *handlers) StreamEvents(ctx context.Context, req StreamEventsRequestObject) (StreamEventsResponseObject, error) {
	b, err := h.batch(ctx, req.ID)
	if err != nil {
		return nil, err
	}
	return eventStream(func(w http.ResponseWriter) error { return h.follow(ctx, w, b) }), nil
}

type eventStream func(http.ResponseWriter) error

// VisitStreamEventsResponse implements StreamEventsResponseObject.
func (s eventStream) VisitStreamEventsResponse(w http.ResponseWriter) error { return s(w) }

// follow writes what a hub samples until the batch ends, the client goes, or the server stops. It sends the latest state, and skips what a
// slow client had no time for.
func (h *handlers) follow(ctx context.Context, w http.ResponseWriter, b store.Batch) error {
	hub := h.hubs.join(ctx, b)
	defer h.hubs.leave(b.ID, hub)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx and those like it would hold events back
	out := eventWriter{w: w, ctl: http.NewResponseController(w)}
	if out.send("retry: 2000\n\n") != nil {
		return nil // the client has gone
	}
	quiet := time.NewTicker(keepAlive)
	defer quiet.Stop()
	var last []byte
	for {
		latest, changed := hub.now()
		switch {
		case latest == nil:
		case latest.ended != nil:
			_ = out.event(latest.number, "progress", latest.progress) // for those who only look at these
			_ = out.event(latest.number, "end", latest.ended)         // gone or not, it was the last
			return nil
		default:
			data, err := json.Marshal(latest.progress)
			if err != nil {
				return fmt.Errorf("api: encode progress: %w", err)
			}
			if bytes.Equal(data, last) {
				break
			}
			last = data
			if out.event(latest.number, "progress", json.RawMessage(data)) != nil {
				return nil
			}
			quiet.Reset(keepAlive)
		}
		select {
		case <-changed:
		case <-quiet.C:
			if out.send(": keep-alive\n\n") != nil {
				return nil
			}
		case <-hub.done: // it may have published its last sample meanwhile
			if latest, _ := hub.now(); latest == nil || latest.ended == nil {
				return nil
			}
		case <-ctx.Done():
			return nil
		case <-h.Stopping:
			return nil
		}
	}
}

type eventWriter struct {
	w   http.ResponseWriter
	ctl *http.ResponseController
}

func (e eventWriter) event(id int64, name string, data any) error {
	text, err := json.Marshal(data) // without a line break
	if err != nil {
		return fmt.Errorf("api: encode event: %w", err)
	}
	return e.send(fmt.Sprintf("id: %d\nevent: %s\ndata: %s\n\n", id, name, text))
}

func (e eventWriter) send(text string) error {
	_ = e.ctl.SetWriteDeadline(time.Now().Add(writeTimeout)) // test recorders can't
	if _, err := e.w.Write([]byte(text)); err != nil {
		return err
	}
	return e.ctl.Flush()
}
