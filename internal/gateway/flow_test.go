package gateway_test

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/gateway/gatewaytest"
)

func stream(t *testing.T, provider, file string) gatewaytest.Answer {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + provider + "/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return gatewaytest.Answer{Body: string(raw), Header: http.Header{"Content-Type": {"text/event-stream; charset=utf-8"}}}
}

// gateways are the ones that a stream and a promise must pass through.
func gateways(t *testing.T, s *gatewaytest.Script) map[string]gateway.Gateway {
	t.Helper()
	return map[string]gateway.Gateway{"engine": gatewaytest.NewEngine(t, s), "universal": universal(t, s), "native": native(t, s)}
}

// native is a Cloudflare client that uses native paths; the script's provider is what it asks there.
func native(t *testing.T, s *gatewaytest.Script) gateway.Gateway {
	t.Helper()
	c, err := gateway.NewCloudflare(gateway.CloudflareOptions{URL: "https://gateway.test/v1/acc/gw", Token: "tok", Native: true,
		ProviderKeys: map[string]string{"openai": "key-of-openai"}, Transport: pathProvider{s}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// pathProvider asks the script for the provider that the path names.
type pathProvider struct{ *gatewaytest.Script }

func (p pathProvider) RoundTrip(r *http.Request) (*http.Response, error) {
	rest := strings.TrimPrefix(r.URL.Path, "/v1/acc/gw/")
	provider, path, _ := strings.Cut(rest, "/")
	r = r.Clone(r.Context())
	r.URL.Host, r.URL.Path = provider+".test", "/"+path
	return p.Script.RoundTrip(r)
}

func TestAStreamGivesItsTextAsItComesAndTheWholeAnswerAtTheEnd(t *testing.T) {
	t.Parallel()
	for name := range gateways(t, gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {{}}})) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {stream(t, "openai", "stream_text.sse")}})
				g := gateways(t, s)[name]
				req := chain(t, nil, "openai")
				var pieces []string
				req.Options.OnText = func(piece string) { pieces = append(pieces, piece) }
				var book gatewaytest.Book
				resp, err := g.Run(t.Context(), req, book.Ledger)
				if err != nil {
					t.Fatal(err)
				}
				book.Check(t, 1)
				if len(pieces) < 2 || strings.Join(pieces, "") != resp.Text || resp.Finish != gateway.FinishStop || !resp.Usage.Known {
					t.Errorf("pieces %q, answer %+v", pieces, resp)
				}
				if body := s.Calls()[0].Body; !strings.Contains(body, `"stream":true`) {
					t.Errorf("sent %s", body)
				}
			})
		})
	}
}

func TestAStreamThatBreaksAfterSomeTextEndsTheChain(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"engine", "native"} { // the fake behind "universal" passes no half an answer on
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				whole := stream(t, "openai", "stream_text.sse")
				half := whole
				half.Body, half.Cut = whole.Body[:len(whole.Body)/2], true
				s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {half, whole}, "custom-b": {gatewaytest.Text("other")}})
				req := chain(t, nil, "openai", "custom-b")
				said := ""
				req.Options.OnText = func(piece string) { said += piece }
				var book gatewaytest.Book
				_, err := gateways(t, s)[name].Run(t.Context(), req, book.Ledger)
				if gateway.ClassOf(err) != gateway.Network || said == "" || len(s.Calls()) != 1 {
					t.Errorf("err %v after %q and %d calls", err, said, len(s.Calls()))
				}
				if es := book.Entries(); len(es) != 1 || !es[0].Outcome.Uncertain {
					t.Errorf("entries %+v", es)
				}
			})
		})
	}
}

func TestAStreamThatFailsBeforeAnyTextFallsBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {gatewaytest.Fail(503, "")}, "custom-b": {gatewaytest.Text("whole at once")}})
		req := chain(t, nil, "openai", "custom-b")
		said := ""
		req.Options.OnText = func(piece string) { said += piece }
		resp, err := gatewaytest.NewEngine(t, s).Run(t.Context(), req, nil)
		if err != nil || said != "whole at once" || resp.Step != 1 {
			t.Errorf("answer %+v, said %q, err %v", resp, said, err)
		}
	})
}

func TestABuiltinAnswersAStreamInOnePiece(t *testing.T) {
	t.Parallel()
	req := chain(t, nil, "local")
	said := ""
	req.Options.OnText = func(piece string) { said += piece }
	resp, err := gatewaytest.NewEngine(t, gatewaytest.NewScript(nil)).Run(t.Context(), req, nil)
	if err != nil || said == "" || said != resp.Text {
		t.Errorf("answer %+v, said %q, err %v", resp, said, err)
	}
}

const (
	promised = `{"id":"abc123","status":"starting","urls":{"get":"https://evil.test/steal"}}`
	kept     = `{"id":"abc123","status":"succeeded","output":["fi","ne"],"metrics":{"input_token_count":10,"output_token_count":2}}`
)

func TestAPromiseIsAskedForUntilItIsKept(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"engine", "native"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"replicate": {
					{Status: 201, Body: promised}, {Body: promised}, gatewaytest.Fail(503, ""), {Err: io.ErrUnexpectedEOF}, {Body: kept}}})
				step, err := gateway.NewStep("replicate", "meta/llama", &gateway.Chat{Messages: []gateway.Message{{Role: "user", Content: "hi"}}}, nil)
				if err != nil {
					t.Fatal(err)
				}
				var book gatewaytest.Book
				resp, err := gateways(t, s)[name].Run(t.Context(), &gateway.Request{Steps: []gateway.Step{step}}, book.Ledger)
				if err != nil || resp.Text != "fine" || resp.Usage.Output != 2 {
					t.Fatalf("answer %+v, err %v", resp, err)
				}
				book.Check(t, 1)
				if len(book.Entries()) != 1 {
					t.Errorf("a promise is one send: %+v", book.Entries())
				}
				calls := s.Calls()
				for _, c := range calls[1:] {
					if !strings.HasSuffix(c.Path, "/predictions/abc123") || c.Body != "" {
						t.Errorf("asked %s with %q", c.Path, c.Body)
					}
				}
				if len(calls) != 5 {
					t.Errorf("%d calls", len(calls))
				}
			})
		})
	}
}

func TestAPromiseThatIsNeverKeptEndsAtTheDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"replicate": {{Status: 201, Body: promised}}})
		step, err := gateway.NewStep("replicate", "meta/llama", &gateway.Chat{Messages: []gateway.Message{{Role: "user", Content: "hi"}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var book gatewaytest.Book
		_, err = gatewaytest.NewEngine(t, s).Run(t.Context(), &gateway.Request{Steps: []gateway.Step{step}, Options: gateway.Options{Timeout: time.Minute}}, book.Ledger)
		if gateway.ClassOf(err) != gateway.Timeout || time.Since(start) != time.Minute || len(book.Entries()) != 1 || !book.Entries()[0].Outcome.Uncertain {
			t.Errorf("err %v after %v, entries %+v", err, time.Since(start), book.Entries())
		}
	})
}

func TestAnAnswerThatStandsStillIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rt := roundTrip(func(r *http.Request) (*http.Response, error) {
			body, w := io.Pipe()
			go func() {
				_, _ = w.Write([]byte(`{"choices":`))
				<-r.Context().Done()
				_ = w.CloseWithError(r.Context().Err())
			}()
			return &http.Response{StatusCode: 200, Header: http.Header{}, Body: body, ContentLength: -1, Request: r}, nil
		})
		e := engineOf(t, gateway.EngineOptions{Transport: rt, IdleTimeout: 7 * time.Second, Endpoints: map[string]gateway.Endpoint{"openai": {BaseURL: "https://openai.test/v1", Key: "k"}}})
		start := time.Now()
		_, err := e.Run(t.Context(), chain(t, &gateway.StepConfig{MaxAttempts: 1}, "openai"), nil)
		if gateway.ClassOf(err) != gateway.Timeout || !strings.Contains(err.Error(), "code idle") || time.Since(start) != 7*time.Second {
			t.Errorf("err %v after %v", err, time.Since(start))
		}
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestNativeSurfaceConforms(t *testing.T) {
	t.Parallel()
	s := gatewaytest.NewScript(map[string][]gatewaytest.Answer{"openai": {gatewaytest.Fail(503, "")}, "custom-b": {gatewaytest.Text("fine")}})
	synctest.Test(t, func(t *testing.T) {
		req := chain(t, &gateway.StepConfig{MaxAttempts: 1, RequestTimeoutMS: 1234}, "openai", "custom-b")
		req.Options.Metadata = gateway.Metadata{"a": "b"}
		var book gatewaytest.Book
		resp, err := native(t, s).Run(t.Context(), req, book.Ledger)
		if err != nil || resp.Step != 1 || resp.Text != "fine" || len(book.Entries()) != 3 {
			t.Fatalf("answer %+v, err %v, %d sends", resp, err, len(book.Entries()))
		}
		book.Check(t, 2)
		h := s.Calls()[0].Header
		for name, want := range map[string]string{
			"Authorization": "Bearer key-of-openai", "Cf-Aig-Authorization": "Bearer tok", "Cf-Aig-Metadata": `{"a":"b"}`,
			"Cf-Aig-Request-Timeout": "1234", "Cf-Aig-Max-Attempts": "1", "Cf-Aig-No-Wholesale": "true",
		} {
			if got := h.Get(name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
		if got := s.Calls()[0].Path; got != "/chat/completions" {
			t.Errorf("path %s", got)
		}
	})
}
