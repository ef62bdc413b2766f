package process

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// serveAdmin serves metrics, profiles and the queue's depth on ADMIN_ADDR, if it is set. It has no authentication: keep it on loopback or a
// private network.
func (s *system) serveAdmin(ctx context.Context) error {
	if s.c.AdminAddr == "" {
		return nil
	}
	l, err := net.Listen("tcp", s.c.AdminAddr)
	if err != nil {
		return fmt.Errorf("ADMIN_ADDR: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.Handle("GET /metrics", s.metrics.handler(s.log))
	if s.queue != nil { // the gateway has none
		mux.HandleFunc("GET /queue", s.showQueue)
	}
	s.log.Info("admin ready", "addr", l.Addr().String())
	return serve(ctx, l, mux, time.Second)
}

func (s *system) showQueue(w http.ResponseWriter, _ *http.Request) {
	waiting, active, err := s.queue.Depth()
	if err != nil {
		http.Error(w, "redis can't be asked", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]int{"waiting": waiting, "active": active})
}
