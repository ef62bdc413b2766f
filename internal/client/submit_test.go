package client

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestNDJSONTravelsAsItIs(t *testing.T) {
	t.Parallel()
	const lines = "{\"custom_id\":\"1\"}\n\n{ \"custom_id\": \"\u00e9\" }"
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if string(body) != lines {
			t.Errorf("got body %q", body)
		}
		want := url.Values{
			"kind": {"generate"}, "route": {"openai:gpt-5.2,local/extractive"}, "template": {"blurb@2"}, "name": {"n & n"},
			"params": {`{"a":1}`}, "on_invalid": {"skip"}, "cache": {"off"}, "metadata": {`{"team":"shop"}`},
		}
		if diff := cmp.Diff(want, r.URL.Query()); diff != "" {
			t.Error(diff)
		}
		if got := r.Header.Get("Content-Type") + " " + r.Header.Get("Content-Encoding") + " " + r.Header.Get("Idempotency-Key"); got != "application/x-ndjson gzip once" {
			t.Errorf("got %q", got)
		}
		w.Header().Set("Idempotency-Replayed", "true")
		w.WriteHeader(http.StatusAccepted)
		_, _ = io.WriteString(w, `{"id":"b1","total_jobs":2}`)
	})
	b, err := c.SubmitNDJSON(t.Context(), strings.NewReader(lines), BatchOptions{
		Kind: "generate", Route: "openai:gpt-5.2,local/extractive", Template: "blurb@2", Name: "n & n", Params: json.RawMessage(`{"a":1}`),
		OnInvalid: "skip", Cache: "off", Metadata: map[string]string{"team": "shop"}, Encoding: "gzip", IdempotencyKey: "once",
	})
	if err != nil || b.ID != "b1" || b.TotalJobs != 2 || !b.Replayed {
		t.Errorf("got %+v, %v", b, err)
	}
}

func TestOptionsThatAreNotGivenAreNotSent(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "kind=chat&route=simulator%2Fsim-1" || r.Header["Idempotency-Key"] != nil || r.Header["Content-Encoding"] != nil {
			t.Errorf("got %s, %v", r.URL, r.Header)
		}
		_, _ = io.WriteString(w, `{}`)
	})
	if _, err := c.SubmitNDJSON(t.Context(), strings.NewReader("{}"), BatchOptions{Kind: "chat", Route: "simulator/sim-1"}); err != nil {
		t.Error(err)
	}
}

func TestDocumentsTravelAsPartsInTheirOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var paths []string
	var want [][3]string // form name, file name, content
	for _, name := range []string{"b.md", "a \"quoted\".txt", "議事録.txt", "empty"} {
		paths = append(paths, filepath.Join(dir, name))
		content := strings.Repeat(name, 20_000)
		if name == "empty" {
			content = ""
		}
		if err := os.WriteFile(paths[len(paths)-1], []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		want = append(want, [3]string{"documents", name, content})
	}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, params, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		mr := multipart.NewReader(r.Body, params["boundary"])
		var got [][3]string
		for {
			part, err := mr.NextPart()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Error(err)
				break
			}
			content, err := io.ReadAll(part)
			if err != nil {
				t.Error(err)
			}
			got = append(got, [3]string{part.FormName(), part.FileName(), string(content)})
		}
		options := `{"kind":"summarize","name":"docs","route":{"steps":[{"provider":"local","model":"extractive"}]},"params":{"length":"short"}}`
		if diff := cmp.Diff(append([][3]string{{"batch", "", options}}, want...), got); diff != "" {
			t.Error(diff)
		}
		_, _ = io.WriteString(w, `{"id":"b1"}`)
	})
	b, err := c.SubmitDocuments(t.Context(), paths, BatchOptions{
		Name: "docs", Route: ` {"steps":[{"provider":"local","model":"extractive"}]}`, Params: json.RawMessage(`{"length":"short"}`),
	})
	if err != nil || b.ID != "b1" {
		t.Errorf("got %+v, %v", b, err)
	}
}

func TestMissingFileSubmitsNothing(t *testing.T) {
	t.Parallel()
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			t.Error("the server got a whole body")
		}
	})
	_, err := c.SubmitDocuments(t.Context(), []string{there, there + "-not"}, BatchOptions{Route: "x"})
	if !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(err.Error(), "client: nothing was submitted: open ") {
		t.Errorf("got %v", err)
	}
}

func TestOptionsThatAreNoJSONAreAnError(t *testing.T) {
	t.Parallel()
	c := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("sent") })
	if _, err := c.SubmitDocuments(t.Context(), nil, BatchOptions{Params: json.RawMessage("{")}); err == nil {
		t.Error("got a batch")
	}
}

// endless is a body of more than the connection's buffers hold.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

func TestWrongKeyIsRefusedBeforeTheUpload(t *testing.T) {
	t.Parallel()
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"detail":"the API key is unknown or revoked"}`)
	})
	var body endless
	_, err := c.SubmitNDJSON(t.Context(), &body, BatchOptions{})
	p, ok := errors.AsType[*Problem](err)
	if !ok || p.Status != http.StatusUnauthorized || p.Error() != "the API key is unknown or revoked (HTTP 401)" || body.read != 0 {
		t.Errorf("got %v after %d bytes", err, body.read)
	}
}

func TestServerThatTakesNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := scripted(t, func(r *http.Request) (*http.Response, error) {
			if _, err := r.Body.Read(make([]byte, 10)); err != nil {
				t.Error(err)
			}
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		began := time.Now()
		_, err := c.SubmitNDJSON(t.Context(), new(endless), BatchOptions{})
		if took := time.Since(began); took != stallLimit || !errors.Is(err, ErrStalled) {
			t.Errorf("after %s: %v", took, err)
		}
	})
}

func TestSlowSourceIsWaitedFor(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		go func() {
			<-time.After(24 * time.Hour)
			_, _ = io.WriteString(w, "{}\n")
			_ = w.Close()
		}()
		c := scripted(t, func(r *http.Request) (*http.Response, error) {
			body, err := io.ReadAll(r.Body)
			if err != nil || string(body) != "{}\n" {
				t.Errorf("got %q, %v", body, err)
			}
			return answer(202, "application/json", `{"id":"b1"}`), context.Cause(r.Context())
		})
		if b, err := c.SubmitNDJSON(t.Context(), r, BatchOptions{}); err != nil || b.ID != "b1" {
			t.Errorf("got %+v, %v", b, err)
		}
	})
}
