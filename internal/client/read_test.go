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

// poll answers polls with one body after the other, the last one for ever. An empty body is a connection refused, "503"
// is that status.
func poll(bodies ...string) transport {
	return func(*http.Request) (*http.Response, error) {
		body := bodies[0]
		if len(bodies) > 1 {
			bodies = bodies[1:]
		}
		switch body {
		case "":
			return nil, errors.New("connection refused")
		case "503":
			return answer(503, "text/plain", ""), nil
		}
		return answer(200, "application/json", body), nil
	}
}

func running(done int) string {
	return fmt.Sprintf(`{"state":"running","total_jobs":3,"stats":{"jobs":{"succeeded":%d}}}`, done)
}

const completed = `{"state":"completed","total_jobs":3,"stats":{"jobs":{"succeeded":2,"failed":1}}}`

func TestWatchYieldsChangesUntilTheEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := scripted(t, poll(`{"state":"planning"}`, running(1), running(1), "", "503", running(2), completed))
		var got []string
		for b, err := range c.Watch(t.Context(), "1") {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("%s %d", b.State, b.Done()))
		}
		if diff := cmp.Diff([]string{"planning 0", "running 1", "running 2", "completed 3"}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWatchSlowsDownToASecond(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var times []time.Duration
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c := scripted(t, func(*http.Request) (*http.Response, error) {
			times = append(times, time.Since(began))
			return answer(200, "application/json", running(0)), nil
		})
		if _, err := c.Wait(ctx, "1"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if n := len(times); times[0] != 0 || times[1] != firstPoll || times[n-1]-times[n-2] != time.Second || n > 80 {
			t.Errorf("%d polls at %v", n, times)
		}
	})
}

func TestWatchGivesUpInTheEnd(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		bodies []string
		want   string
	}{
		"no server":         {[]string{running(0), ""}, "connection refused"},
		"a refusal":         {[]string{running(0), `{]`}, "not what the API promises"},
		"server unavailble": {[]string{"503"}, "HTTP 503"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				c := scripted(t, poll(tt.bodies...))
				if b, err := c.Wait(t.Context(), "1"); err == nil || !strings.Contains(err.Error(), tt.want) || b.State != "" {
					t.Errorf("got %+v, %v", b, err)
				}
			})
		})
	}
}

const twoResults = `{"job_id":"b-1","index":1,"custom_id":"a","status":"succeeded","output":"Two\nlines.","cost_microusd":5}
{"job_id":"b-2","index":2,"status":"failed","output":null,"error":{"class":"auth","message":"no key"}}
`

func TestResultsStream(t *testing.T) {
	t.Parallel()
	first := make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.String(); got != "/v1/batches/b/results?after=7&status=failed" {
			t.Errorf("got %s", got)
		}
		line, rest, _ := strings.Cut(twoResults, "\n")
		_, _ = io.WriteString(w, line+"\n")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		<-first // the second result comes when the first one has been read
		_, _ = io.WriteString(w, rest)
	})
	var got []string
	for r, err := range c.Results(t.Context(), "b", ResultOptions{Status: "failed", After: 7}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			close(first)
		}
		got = append(got, fmt.Sprintf("%s %s %q %v %s", r.JobID, r.Status, r.Text(), r.Error, r.Raw))
	}
	lines := strings.Split(twoResults, "\n")
	want := []string{`b-1 succeeded "Two\nlines." <nil> ` + lines[0], `b-2 failed "" &{auth no key} ` + lines[1]}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestResultsThatBreakOffAreAnError(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{"in a line": twoResults[:150], "between lines": twoResults[:strings.Index(twoResults, "\n")+1]} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, body)
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			})
			n := 0
			var last error
			for _, err := range c.Results(t.Context(), "b", ResultOptions{}) {
				if last = err; err == nil {
					n++
				}
			}
			if n != 1 || !errors.Is(last, io.ErrUnexpectedEOF) || !strings.HasPrefix(last.Error(), "client: the results broke off: ") {
				t.Errorf("%d results, then %v", n, last)
			}
		})
	}
}

func TestResultsMayBeLeft(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, twoResults) })
	for _, err := range c.Results(t.Context(), "b", ResultOptions{}) {
		if err != nil {
			t.Error(err)
		}
		break
	}
}

func TestResultsOfASilentServerAreGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := scripted(t, func(r *http.Request) (*http.Response, error) {
			body := io.MultiReader(strings.NewReader(twoResults), silent{r.Context()})
			return &http.Response{StatusCode: 200, Body: io.NopCloser(body)}, nil
		})
		n := 0
		var last error
		for _, err := range c.Results(t.Context(), "b", ResultOptions{}) {
			if last = err; err == nil {
				n++
				<-time.After(time.Hour) // the reader may take its time
			}
		}
		if n != 2 || !errors.Is(last, ErrStalled) {
			t.Errorf("%d results, then %v", n, last)
		}
	})
}

type silent struct{ ctx context.Context } //nolint:containedctx // a body ends with its request

func (s silent) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

func TestTextOfAnAnswer(t *testing.T) {
	t.Parallel()
	for output, want := range map[string]string{`"a\nb"`: "a\nb", `{"a": 1}`: `{"a": 1}`, `null`: "", ``: "", `["x"]`: `["x"]`} {
		if got := (Result{Output: []byte(output)}).Text(); got != want {
			t.Errorf("%s: got %q, want %q", output, got, want)
		}
	}
}

func TestJobsArePaged(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.RawQuery; q {
		case "limit=1000&status=failed":
			_, _ = io.WriteString(w, `{"data":[{"id":"b-1"},{"id":"b-2"}],"next_cursor":"Mg=="}`)
		case "cursor=Mg%3D%3D&limit=1000&status=failed":
			_, _ = io.WriteString(w, `{"data":[{"id":"b-3"}],"next_cursor":null}`)
		default:
			t.Errorf("got %s", q)
		}
	})
	var got []string
	for j, err := range c.Jobs(t.Context(), "b", JobOptions{Status: "failed"}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, j.ID)
	}
	if diff := cmp.Diff([]string{"b-1", "b-2", "b-3"}, got); diff != "" {
		t.Error(diff)
	}
}
