package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// progress is an event as the server writes it.
func progress(done int) string {
	return fmt.Sprintf("id: %d\nevent: progress\ndata: {\"state\":\"running\",\"total\":9,\"done\":%d,\"rate\":2.5,\"eta_seconds\":4,\"jobs\":{\"succeeded\":%[2]d}}\n\n", done, done)
}

const end = "event: end\ndata: {\"id\":\"b\",\"state\":\"completed\",\"total_jobs\":9,\"stats\":{\"jobs\":{\"succeeded\":9}}}\n\n"

// watch says what a watch yields, with polls and event streams answered by the functions.
func watch(t *testing.T, polled, streamed func(n int) (*http.Response, error)) (got []string, polls, streams int, err error) {
	t.Helper()
	c := scripted(t, func(r *http.Request) (*http.Response, error) {
		if strings.HasSuffix(r.URL.Path, "/v1/batches/b/events") {
			if r.Header.Get("Accept") != "text/event-stream" || r.Header.Get("Authorization") != "Bearer bw_key" {
				t.Errorf("asked with %v", r.Header)
			}
			streams++
			return streamed(streams)
		}
		polls++
		return polled(polls)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	for b, err := range c.Watch(ctx, "b") {
		if err != nil {
			return got, polls, streams, err
		}
		line := fmt.Sprintf("%s %d", b.State, b.Done())
		if b.Progress != nil {
			line += fmt.Sprintf(" at %g, %d s", b.Progress.Rate, *b.Progress.ETASeconds)
		}
		got = append(got, line)
	}
	return got, polls, streams, nil
}

func always(body string) func(int) (*http.Response, error) {
	return func(int) (*http.Response, error) { return answer(200, "application/json", body), nil }
}

func stream(body string) *http.Response { return answer(200, "text/event-stream", body) }

func TestLongBatchesAreFollowedAsEvents(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		got, polls, streams, err := watch(t, always(running(0)), func(int) (*http.Response, error) {
			if d := time.Since(began); d < 3*time.Second {
				t.Errorf("a stream after %s: a short batch is done by then", d)
			}
			return stream("retry: 2000\r\n\r\n: keep-alive\n\n" + progress(3) + progress(5) + "event: news\ndata: x\n\n" + end), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"running 0", "running 3 at 2.5, 4 s", "running 5 at 2.5, 4 s", "completed 9"}, got); diff != "" {
			t.Error(diff)
		}
		if streams != 1 || polls > 20 {
			t.Errorf("%d streams, %d polls", streams, polls)
		}
	})
}

func TestAStreamThatBreaksOffIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		got, _, streams, err := watch(t, always(running(1)), func(n int) (*http.Response, error) {
			switch n {
			case 1:
				return nil, errors.New("connection refused")
			case 2: // cut in the middle of an event
				return stream(progress(4) + end[:40]), nil
			case 3: // the server stops in order
				return stream(progress(6)), nil
			case 4:
				return answer(503, "text/plain", ""), nil
			}
			return stream(progress(8) + end), nil
		})
		if err != nil || streams != 5 {
			t.Fatalf("%d streams, %v", streams, err)
		}
		want := []string{"running 1", "running 4 at 2.5, 4 s", "running 6 at 2.5, 4 s", "running 8 at 2.5, 4 s", "completed 9"}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestServersWithoutEventsArePolled(t *testing.T) {
	t.Parallel()
	for name, res := range map[string]func(int) (*http.Response, error){
		"not there":     func(int) (*http.Response, error) { return answer(404, "text/plain", ""), nil },
		"another thing": always(`{}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				got, polls, streams, err := watch(t, func(n int) (*http.Response, error) {
					if n < 60 {
						return always(running(1))(n)
					}
					return always(completed)(n)
				}, res)
				if err != nil || streams != 1 || polls != 60 || len(got) != 2 {
					t.Errorf("%v after %d streams and %d polls, %v", got, streams, polls, err)
				}
			})
		})
	}
}

// TestASilentStreamIsGivenUp: the server writes at least every 15 s, so a minute without a byte is a dead connection.
func TestASilentStreamIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		began, streams := time.Now(), 0
		c := scripted(t, func(r *http.Request) (*http.Response, error) {
			if !strings.HasSuffix(r.URL.Path, "/events") {
				return answer(200, "application/json", running(1)), nil
			}
			if streams++; streams > 1 {
				if d := time.Since(began); d < time.Minute || d > 70*time.Second {
					t.Errorf("a stream again after %s", d)
				}
				return stream(end), nil
			}
			silent, w := io.Pipe()
			context.AfterFunc(r.Context(), func() { _ = w.CloseWithError(r.Context().Err()) }) // as a real connection does
			res := stream("")
			res.Body = silent
			return res, nil
		})
		if b, err := c.Wait(t.Context(), "b"); err != nil || b.State != "completed" || streams != 2 {
			t.Errorf("%+v after %d streams, %v", b, streams, err)
		}
	})
}
