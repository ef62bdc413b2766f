package source

import (
	"context"
	"errors"
	"io"
	"iter"
	"math/rand/v2"
	"net/url"
	"path"
	"strings"
	"time"

	"batchwright/internal/bucket"
)

const (
	tries     = 4                      // at reading one item
	readLimit = 10 * time.Minute       // for one of them
	firstRest = 300 * time.Millisecond // between the first two of them; then twice as long each time
)

// objects yields what URLs stand for, each once.
func (s *Sources) objects(ctx context.Context, project string, urls []string) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		l := &listing{s: s, places: s.o.Places.Of(project), open: map[string]*bucket.Bucket{}, seen: map[string]bool{}, hosts: map[string]*host{}}
		defer l.close() // all readers have ended by then
		for item, err := range inOrder(ctx, l.tasks(ctx, urls)) {
			if !yield(item, err) {
				return
			}
		}
	}
}

// listing is one walk through the URLs of a spec.
type listing struct {
	s      *Sources
	places bucket.Places
	open   map[string]*bucket.Bucket // by place
	before []pattern
	seen   map[string]bool // URLs of what is named
	hosts  map[string]*host
}

// pattern is one that was listed. Nothing else is kept of it, however much it listed.
type pattern struct{ place, key string }

func (l *listing) close() {
	for _, b := range l.open {
		_ = b.Close() // it was only read from
	}
}

// tasks yields what is named first, whether it is there or not, and then what patterns find beside that.
func (l *listing) tasks(ctx context.Context, urls []string) iter.Seq2[task, error] {
	return func(yield func(task, error) bool) {
		for _, patterns := range []bool{false, true} {
			for i, raw := range urls {
				for t, err := range l.of(ctx, raw, patterns) {
					if err != nil {
						yield(task{}, inField(urlField(i), err))
						return
					}
					if !yield(t, nil) {
						return
					}
				}
			}
		}
	}
}

// of yields what a URL stands for, if it is a pattern or else if it is none.
func (l *listing) of(ctx context.Context, raw string, patterns bool) iter.Seq2[task, error] {
	return func(yield func(task, error) bool) {
		if isWeb(raw) {
			if !patterns && !l.seen[raw] {
				l.seen[raw] = true
				yield(l.page(raw), nil)
			}
			return
		}
		place, key, err := l.places.Locate(raw)
		u, perr := url.Parse(raw)
		if err = errors.Join(err, perr); err != nil {
			yield(task{}, err)
			return
		}
		if bucket.IsPattern(key) != patterns {
			return
		}
		b := l.open[place]
		if b == nil {
			if b, _, err = l.places.Open(ctx, raw); err != nil {
				yield(task{}, err)
				return
			}
			l.open[place] = b
		}
		folder := strings.TrimSuffix(u.Path, key)
		named := func(key string) task {
			at := url.URL{Scheme: u.Scheme, Host: u.Host, Path: folder + key}
			return task{item: Item{ID: at.String(), Name: path.Base(key)}, size: l.s.o.MaxDocument,
				read: func(ctx context.Context) ([]byte, string, error) { return l.s.object(ctx, b, key) }}
		}
		if !patterns {
			if t := named(key); !l.seen[t.item.ID] {
				l.seen[t.item.ID] = true
				yield(t, nil)
			}
			return
		}
		for o, err := range b.List(ctx, key) {
			if err != nil {
				yield(task{}, err)
				return
			}
			t := named(o.Key)
			if l.listed(place, o.Key) || l.seen[t.item.ID] {
				continue
			}
			if t.size = o.Size + 1; o.Size > l.s.o.MaxDocument {
				t.size = 0 // it won't be read
			}
			if !yield(t, nil) {
				return
			}
		}
		l.before = append(l.before, pattern{place, key})
	}
}

// listed reports whether an earlier pattern had an object.
func (l *listing) listed(place, key string) bool {
	for _, p := range l.before {
		if p.place == place && bucket.Match(p.key, key) {
			return true
		}
	}
	return false
}

// object reads an object. Its content type is not asked for: what a file is shows in its name and its bytes.
func (s *Sources) object(ctx context.Context, b *bucket.Bucket, key string) ([]byte, string, error) {
	var data []byte
	err := again(ctx, tries, func() (time.Duration, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, readLimit, &Error{Message: "can't be read: the storage takes longer than " + readLimit.String()})
		defer cancel()
		r, _, err := b.Read(ctx, key, s.o.MaxDocument)
		if err != nil {
			return 0, inField("", err)
		}
		data, err = io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			if _, known := errors.AsType[*bucket.Error](err); !known {
				err = &Error{Message: "can't be read: the storage broke off", Err: err}
			}
		}
		return 0, inField("", err)
	})
	if err != nil {
		return nil, "", err
	}
	return data, "", nil
}

// again calls f until it succeeds, is refused, or has failed for as often as it may. F says how long to wait before the next try at least.
func again(ctx context.Context, tries int, f func() (wait time.Duration, err error)) error {
	for rest := firstRest; ; rest *= 2 {
		wait, err := f()
		if err == nil || ctx.Err() != nil {
			return err
		}
		if e, ok := errors.AsType[*Error](err); ok && e.Refused {
			return err
		}
		if tries--; tries == 0 {
			return err
		}
		timer := time.NewTimer(max(wait, rest+rand.N(rest/4)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}
