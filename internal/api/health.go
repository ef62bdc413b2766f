package api

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// readyTimeout bounds each check of /readyz.
const readyTimeout = 2 * time.Second

// GetHealth says that the process runs.
func (h *handlers) GetHealth(context.Context, GetHealthRequestObject) (GetHealthResponseObject, error) {
	return GetHealth200JSONResponse{Status: "ok"}, nil
}

// GetReadiness asks what the API can't work without. The answer is open to everybody, so causes go to the log.
func (h *handlers) GetReadiness(ctx context.Context, _ GetReadinessRequestObject) (GetReadinessResponseObject, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("no answer within %v", readyTimeout))
	defer cancel()
	out := Readiness{Status: "ok", Postgres: "ok", Redis: "ok", Migration: "ok"}
	var redisErr error
	var wg sync.WaitGroup
	wg.Go(func() { redisErr = h.RedisPing(ctx) })
	level, err := h.Read.Ready(ctx)
	wg.Wait()
	switch {
	case err != nil:
		out.Postgres, out.Migration = "can't be reached", "unknown"
		h.Log.WarnContext(ctx, "postgres is not ready", "err", err)
	case level < h.WantMigration: // a higher one is fine: migrations expand before they contract
		out.Migration = fmt.Sprintf("at %d, this build needs %d: run batchwright migrate", level, h.WantMigration)
	}
	if redisErr != nil {
		out.Redis = "can't be reached"
		h.Log.WarnContext(ctx, "redis is not ready", "err", redisErr)
	}
	if out.Postgres != "ok" || out.Redis != "ok" || out.Migration != "ok" {
		out.Status = "unavailable"
		return GetReadiness503JSONResponse(out), nil
	}
	return GetReadiness200JSONResponse(out), nil
}
