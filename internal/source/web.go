package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"sync/atomic"
	"time"

	"batchwright/internal/egress"
)

const (
	maxRedirects = 5
	hostFetches  = 2                // at once, of one host
	hostSilence  = 10               // fetches of a host without an answer, one after the other, after which the others aren't tried
	longestRest  = 30 * time.Second // that a Retry-After may ask for
)

// webClient follows a few redirects, to what the guard lets it.
func webClient(g egress.Guard) *http.Client {
	c := g.Client()
	c.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return refuse("", "can't be read: it redirects more than %d times", maxRedirects)
		}
		to := *r.URL
		to.Fragment, to.RawFragment = "", ""
		if why := g.CheckURL(to.String()); why != "" {
			return refuse("", "can't be read: it redirects to a URL that isn't followed: %s", why)
		}
		r.Header.Del("Referer")
		return nil
	}
	return c
}

// refusesWeb says why a URL isn't fetched, or nothing.
func (s *Sources) refusesWeb(raw string) string {
	if !s.o.Web {
		return "is not allowed: this server reads no http and https URLs"
	}
	return s.o.Guard.CheckURL(raw)
}

// host is what a listing knows of a web server.
type host struct {
	slots  chan struct{}
	silent atomic.Int32 // fetches without an answer since the last one
}

// page is a task that fetches a URL.
func (l *listing) page(raw string) task {
	t := task{item: Item{ID: raw}, size: l.s.o.MaxDocument}
	u, err := url.Parse(raw)
	if err != nil { // it was looked at before
		return t
	}
	if t.item.Name = path.Base(u.Path); t.item.Name == "/" || t.item.Name == "." {
		t.item.Name = u.Hostname()
	}
	h := l.hosts[u.Host]
	if h == nil {
		h = &host{slots: make(chan struct{}, hostFetches)}
		l.hosts[u.Host] = h
	}
	t.read = func(ctx context.Context) (data []byte, contentType string, err error) {
		select {
		case h.slots <- struct{}{}:
			defer func() { <-h.slots }()
		case <-ctx.Done():
			return nil, "", context.Cause(ctx)
		}
		if h.silent.Load() >= hostSilence {
			return nil, "", refuse("", "was not fetched: its host didn't answer %d times before", hostSilence)
		}
		err = again(ctx, tries, func() (wait time.Duration, err error) {
			data, contentType, wait, err = l.s.fetch(ctx, raw, h)
			return wait, err
		})
		return data, contentType, err
	}
	return t
}

var errTimeout = errors.New("source: timed out")

// fetch asks for a page once.
func (s *Sources) fetch(ctx context.Context, raw string, h *host) (data []byte, contentType string, wait time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.WebTimeout, errTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, raw, http.NoBody)
	if err != nil {
		return nil, "", 0, refuse("", "can't be read: it is no URL")
	}
	req.Header.Set("User-Agent", "Batchwright-Sources")
	res, err := s.web.Do(req)
	if err != nil {
		if _, ours := errors.AsType[*Error](err); !ours {
			h.silent.Add(1)
		}
		return nil, "", 0, s.unfetched(ctx, err)
	}
	defer res.Body.Close()
	h.silent.Store(0)
	switch status := res.StatusCode; {
	case status == http.StatusTooManyRequests || status >= 500 || status == http.StatusRequestTimeout:
		e := &Error{Message: fmt.Sprintf("can't be read: the host answered %d", status)}
		if wait = egress.RetryAfter(res.Header.Get("Retry-After"), time.Now()); wait > longestRest {
			e.Message += fmt.Sprintf(", and asks to be left alone for %s", wait.Round(time.Second))
			e.Refused = true
		}
		return nil, "", wait, e
	case status != http.StatusOK:
		return nil, "", 0, refuse("", "can't be read: the host answered %d", status)
	case res.ContentLength > s.o.MaxDocument:
		return nil, "", 0, refuse("", "is longer than %d bytes", s.o.MaxDocument)
	}
	data, err = io.ReadAll(io.LimitReader(res.Body, s.o.MaxDocument+1))
	if err != nil {
		return nil, "", 0, s.unfetched(ctx, err)
	}
	if int64(len(data)) > s.o.MaxDocument {
		return nil, "", 0, refuse("", "is longer than %d bytes", s.o.MaxDocument)
	}
	return data, res.Header.Get("Content-Type"), 0, nil
}

// unfetched says why there was no whole answer.
func (s *Sources) unfetched(ctx context.Context, err error) error {
	if e, ok := errors.AsType[*Error](err); ok { // of a redirect
		return e
	}
	if errors.Is(context.Cause(ctx), errTimeout) {
		return &Error{Message: fmt.Sprintf("can't be read: the host gave no whole answer within %s", s.o.WebTimeout), Err: err}
	}
	return &Error{Message: "can't be read: " + egress.Why(err), Refused: errors.Is(err, egress.ErrBlocked), Err: err}
}
