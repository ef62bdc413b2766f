package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"batchwright/internal/gateway"
)

// market is a provider of many models, each a simulator that can be changed between batches.
type market struct {
	mu     sync.Mutex
	models map[string]*gateway.Simulator
}

// startMarket serves the models of the lab's batches in this process: what their calls cost in CPU doesn't matter here.
func (l *lab) startMarket() error {
	l.market = &market{models: map[string]*gateway.Simulator{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: l.market, ReadHeaderTimeout: time.Minute}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // ends when it is closed
	}()
	l.backends = []string{listener.Addr().String()}
	l.ends = append(l.ends, func(context.Context) error {
		err := server.Close()
		<-served
		return err
	})
	return nil
}

// set makes a model answer so from now on.
func (m *market) set(model string, o gateway.SimulatorOptions) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.models[model] = gateway.NewSimulator(o)
}

// ServeHTTP has the model that a request names answer it.
func (m *market) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var asked struct{ Model string }
	if err != nil || json.Unmarshal(body, &asked) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	m.mu.Lock()
	s := m.models[asked.Model]
	m.mu.Unlock()
	if s == nil {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	s.ServeHTTP(w, r)
}
