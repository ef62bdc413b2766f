package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve returns a client of a server that answers with h.
func serve(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := New(srv.URL+"/", "bw_key")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// transport answers without a network, so that time can be scripted.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func scripted(t *testing.T, f transport) *Client {
	t.Helper()
	c, err := New("http://batchwright.test", "bw_key")
	if err != nil {
		t.Fatal(err)
	}
	c.http.Transport = f
	return c
}

func answer(status int, contentType, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {contentType}}, Body: io.NopCloser(strings.NewReader(body))}
}

func TestNewRefusesWhatIsNoURL(t *testing.T) {
	t.Parallel()
	for _, u := range []string{"", "127.0.0.1:8080", "localhost", "ftp://host", "http://", "http://host?x=1", "http://host/#x", "http://[::1"} {
		if c, err := New(u, ""); err == nil {
			t.Errorf("%q: got %v, want an error", u, c.base)
		}
	}
	for _, u := range []string{"http://127.0.0.1:8080", "https://host/batchwright/", "http://[::1]:8080"} {
		if _, err := New(u, ""); err != nil {
			t.Error(err)
		}
	}
}

func TestRequestsAreSentAsTheContractWants(t *testing.T) {
	t.Parallel()
	var got []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, fmt.Sprintf("%s %s %s %s %s", r.Method, r.URL, r.Header.Get("Authorization"), r.Header.Get("Content-Type"), body))
		_, _ = io.WriteString(w, `{"id":"1","ref":"blurb@2","state":"cancelled","a_field_of_tomorrow":1}`)
	})
	ctx := t.Context()
	b, err := c.Cancel(ctx, "a/b")
	if err != nil || b.State != "cancelled" || !b.Final() {
		t.Fatalf("got %+v, %v", b, err)
	}
	for _, f := range []func() error{
		func() error { _, err := c.CancelWithin(ctx, "b", 5*time.Second); return err },
		func() error { _, err := c.Pause(ctx, "b"); return err },
		func() error { _, err := c.Resume(ctx, "b"); return err },
		func() error { _, err := c.Retry(ctx, "b", RetryFilter{}); return err },
		func() error {
			_, err := c.Retry(ctx, "b", RetryFilter{Statuses: []string{"failed", "cancelled"}, ErrorClasses: []string{"timeout"}, CustomIDs: []string{"a"}})
			return err
		},
	} {
		if err := f(); err != nil {
			t.Fatal(err)
		}
	}
	d, err := c.SaveTemplate(ctx, "blurb", json.RawMessage(`{"user":"<Hi>"}`))
	if err != nil || d.Ref != "blurb@2" {
		t.Fatalf("got %+v, %v", d, err)
	}
	if _, err := c.SaveRoute(ctx, "cheap", json.RawMessage(`{"steps":[]}`)); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"POST /v1/batches/a%2Fb/cancel Bearer bw_key  ",
		"POST /v1/batches/b/cancel?grace_seconds=5 Bearer bw_key  ",
		"POST /v1/batches/b/pause Bearer bw_key  ",
		"POST /v1/batches/b/resume Bearer bw_key  ",
		"POST /v1/batches/b/retry Bearer bw_key application/json {}",
		`POST /v1/batches/b/retry Bearer bw_key application/json {"statuses":["failed","cancelled"],"error_classes":["timeout"],"custom_ids":["a"]}`,
		`POST /v1/templates Bearer bw_key application/json {"name":"blurb","spec":{"user":"\u003cHi\u003e"}}`,
		`POST /v1/routes Bearer bw_key application/json {"name":"cheap","spec":{"steps":[]}}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestRefusalIsAProblemWithItsLineErrors(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
		w.WriteHeader(http.StatusUnprocessableEntity)
		_, _ = io.WriteString(w, `{"type":"urn:batchwright:problem:unprocessable","title":"The submission can't be run","status":422,
			"detail":"2 lines can't be run","instance":"urn:batchwright:request:r1","error_count":2,"errors":[
			{"line":3,"custom_id":"sku-3","field":"variables","code":"missing_variable","message":"name is missing"},
			{"line":4,"code":"invalid_json","message":"invalid JSON at byte 7"}]}`)
	})
	_, err := c.SubmitNDJSON(t.Context(), strings.NewReader("{}\n"), BatchOptions{Kind: "generate", Route: "simulator/sim-1"})
	p, ok := errors.AsType[*Problem](err)
	if !ok {
		t.Fatalf("got %v, want a *Problem", err)
	}
	want := &Problem{
		Type: "urn:batchwright:problem:unprocessable", Title: "The submission can't be run", Status: 422, Detail: "2 lines can't be run",
		Instance: "urn:batchwright:request:r1", ErrorCount: 2,
		Errors: []Fault{
			{Line: 3, CustomID: "sku-3", Field: "variables", Code: "missing_variable", Message: "name is missing"},
			{Line: 4, Code: "invalid_json", Message: "invalid JSON at byte 7"},
		},
	}
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
}

func TestAnswersOfOthersAreProblemsToo(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name, contentType, body, location string
		status                            int
		detail                            string
	}{
		{"a proxy's page", "text/html", "<h1>Bad Gateway</h1>", "", 502, "the answer doesn't come from Batchwright"},
		{"an empty problem", "application/problem+json", "{}", "", 404, "the answer doesn't come from Batchwright"},
		{"a redirect", "", "", "https://elsewhere.test/v1/batches/1", 301, "redirected to https://elsewhere.test/v1/batches/1; use that URL"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := scripted(t, func(r *http.Request) (*http.Response, error) {
				res := answer(tt.status, tt.contentType, tt.body)
				res.Request = r
				if tt.location != "" {
					res.Header.Set("Location", tt.location)
				}
				return res, nil
			})
			_, err := c.Batch(t.Context(), "1")
			p, ok := errors.AsType[*Problem](err)
			if !ok || p.Status != tt.status || !strings.HasPrefix(p.Detail, tt.detail) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestNothingIsSentTwice(t *testing.T) {
	t.Parallel()
	for _, status := range []int{429, 500, 503} {
		var calls atomic.Int32
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			w.WriteHeader(status)
		})
		if _, err := c.SubmitNDJSON(t.Context(), strings.NewReader("{}"), BatchOptions{}); err == nil {
			t.Error("got a batch")
		}
		if _, err := c.Batch(t.Context(), "1"); err == nil {
			t.Error("got a batch")
		}
		if n := calls.Load(); n != 2 {
			t.Errorf("status %d: %d requests for two calls", status, n)
		}
	}
}

func TestAnswerThatIsNoJSONIsAnError(t *testing.T) {
	t.Parallel()
	c := scripted(t, func(*http.Request) (*http.Response, error) { return answer(200, "text/html", "<html>"), nil })
	if _, err := c.Batch(t.Context(), "1"); err == nil || !strings.Contains(err.Error(), "not what the API promises") {
		t.Errorf("got %v", err)
	}
}

func TestShortRequestEndsAfterItsLimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := scripted(t, func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		began := time.Now()
		_, err := c.Batch(t.Context(), "1")
		if took := time.Since(began); took != answerLimit || err == nil || err.Error() != "client: no answer after 30s" {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

func TestCallersReasonIsTold(t *testing.T) {
	t.Parallel()
	reason := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(reason)
	c := serve(t, func(http.ResponseWriter, *http.Request) {})
	if _, err := c.Batch(ctx, "1"); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
}
