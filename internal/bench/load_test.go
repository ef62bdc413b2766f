package bench

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

// standIns serves the provider, and the bare proxy before it.
func standIns(t *testing.T) (direct, proxied string) {
	t.Helper()
	p := httptest.NewServer(provider())
	t.Cleanup(p.Close)
	direct = strings.TrimPrefix(p.URL, "http://")
	b := httptest.NewServer(bareProxy(direct))
	t.Cleanup(b.Close)
	return direct, strings.TrimPrefix(b.URL, "http://")
}

func TestLoadReadsWhatIsSent(t *testing.T) {
	t.Parallel()
	direct, proxied := standIns(t)
	stream := func(events int) int64 { return int64(events*len(event) + len(lastEvent)) }
	for endpoint, want := range map[string]int64{
		"chat/completions": int64(len(completion)), "short": stream(shortEvents), "long": stream(longBytes / len(event)), "flushed": stream(paceEvents),
	} {
		for name, addr := range map[string]string{"direct": direct, "proxied": proxied} {
			const n = 6
			v, err := bare(addr, endpoint, ask).fire(t.Context(), 2, n)
			if err != nil || v.bytes != n*want || v.took <= 0 {
				t.Errorf("%s %s: %d bytes in %s, want %d, %v", endpoint, name, v.bytes, v.took, n*want, err)
				continue
			}
			if !slices.IsSorted(v.whole) || !slices.IsSorted(v.first) || v.first[0] <= 0 || v.first[n-1] > v.whole[n-1] {
				t.Errorf("%s %s: latencies %v to the first byte, %v to the last", endpoint, name, v.first, v.whole)
			}
		}
	}
}

func TestLoadRefusesWhatIsNotWanted(t *testing.T) {
	t.Parallel()
	direct, _ := standIns(t)
	if _, err := bare(direct, "nothing/here", ask).fire(t.Context(), 2, 10); !errors.Is(err, errStatus) {
		t.Errorf("a status: %v", err)
	}
	miss := bare(direct, "chat/completions", ask)
	miss.want = "Cf-Aig-Cache-Status: HIT"
	if _, err := miss.fire(t.Context(), 2, 10); !errors.Is(err, errWanted) {
		t.Errorf("a head: %v", err)
	}
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, "short")
	}))
	defer broken.Close()
	if _, err := bare(strings.TrimPrefix(broken.URL, "http://"), "x", ask).fire(t.Context(), 1, 1); err == nil {
		t.Error("an answer that broke off passes")
	}
}

func TestLoadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		drain(r)
		asked <- struct{}{}
		<-r.Context().Done()
	}))
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	go func() { <-asked; cancel() }()
	if _, err := bare(strings.TrimPrefix(silent.URL, "http://"), "x", ask).fire(ctx, 1, 1); err == nil || ctx.Err() == nil {
		t.Errorf("%v", err)
	}
}

// TestEngineAnswersTheBench is P12 in small: the calls that are counted are good ones.
func TestEngineAnswersTheBench(t *testing.T) {
	t.Parallel()
	direct, _ := standIns(t)
	e, err := gateway.NewEngine(gateway.EngineOptions{Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: "http://" + direct + "/v1", Key: "k"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	req := &gateway.Request{Steps: []gateway.Step{{Provider: "openai", Model: "m", Endpoint: "chat/completions", Query: []byte(ask)}}}
	if rate, took, err := runAll(t.Context(), e, req, 4, 20); err != nil || rate <= 0 || took <= 0 {
		t.Errorf("%v in %s: %v", rate, took, err)
	}
}

func TestQuantile(t *testing.T) {
	t.Parallel()
	var v []time.Duration
	if quantile(v, 0.5) != 0 {
		t.Error("of none")
	}
	for i := range 100 {
		v = append(v, time.Duration(i)*time.Microsecond)
	}
	if a, b, c := quantile(v, 0.5), quantile(v, 0.99), quantile(v, 1); a != 50 || b != 99 || c != 99 {
		t.Error(a, b, c)
	}
}
