package gateway_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/gatewaytest"
)

// BenchmarkSimulator is one answer in process.
func BenchmarkSimulator(b *testing.B) {
	e, err := gateway.NewEngine(gateway.EngineOptions{})
	if err != nil {
		b.Fatal(err)
	}
	req := chain(b, nil, "simulator")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := e.Run(b.Context(), req, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkExtractive is one summary of a document of about 30 kB.
func BenchmarkExtractive(b *testing.B) {
	doc, err := os.ReadFile("testdata/extractive/english.md")
	if err != nil {
		b.Fatal(err)
	}
	s, err := gateway.NewStep("local", gateway.Extractive, &gateway.Chat{Messages: []gateway.Message{{Role: "user", Content: strings.Repeat(string(doc)+"\n\n", 20)}}}, nil)
	if err != nil {
		b.Fatal(err)
	}
	e, err := gateway.NewEngine(gateway.EngineOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(s.Query)))
	for b.Loop() {
		if _, err := e.Run(b.Context(), &gateway.Request{Steps: []gateway.Step{s}}, nil); err != nil {
			b.Fatal(err)
		}
	}
}

// backend answers at once with one small completion.
func backend(b *testing.B) *httptest.Server {
	answer := []byte(gatewaytest.Text("a short answer of some words").Body)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Write(answer)
	}))
	b.Cleanup(srv.Close)
	return srv
}

// BenchmarkEngineOverHTTP and BenchmarkBareHTTP make the same calls: the engine is to keep 0.8 of the bare client's
// throughput.
func BenchmarkEngineOverHTTP(b *testing.B) {
	e, err := gateway.NewEngine(gateway.EngineOptions{Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: backend(b).URL + "/v1", Key: "k"}}})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(e.Close)
	req := chain(b, nil, "openai")
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := e.Run(b.Context(), req, nil); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkBareHTTP(b *testing.B) {
	url := backend(b).URL + "/v1/chat/completions"
	transport := &http.Transport{MaxIdleConnsPerHost: 4096, DisableCompression: true}
	b.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Transport: transport}
	body := chain(b, nil, "openai").Steps[0].Query
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req, err := http.NewRequestWithContext(b.Context(), http.MethodPost, url, bytes.NewReader(body))
			if err != nil {
				b.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer k")
			req.Header.Set("Content-Type", "application/json")
			res, err := client.Do(req)
			if err != nil {
				b.Error(err)
				return
			}
			var answer struct {
				Choices []struct{ Message struct{ Content string } }
				Usage   map[string]any
			}
			err = json.NewDecoder(res.Body).Decode(&answer)
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if err != nil || len(answer.Choices) != 1 {
				b.Error(err)
			}
		}
	})
}
