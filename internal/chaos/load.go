package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"batchwright/internal/client"
)

// accepted is a submission that the API said it has.
type accepted struct {
	load
	id string
}

// template asks for an answer to each tag; see ask. The cap is over any answer of the provider's.
const template = `{"system":"You answer.","user":"Say the word of {{.tag}}.","variables":{"tag":{"type":"string"}},"sampling":{"max_tokens":40}}`

// submit brings in all loads of the plan and returns when each is accepted, or its client is gone.
func (w *world) submit(ctx context.Context) error {
	for i, c := range w.clients {
		err := w.insist(ctx, fmt.Sprintf("the template of project %d", i), func(ctx context.Context) error {
			_, err := c.SaveTemplate(ctx, "word", []byte(template))
			return err
		})
		if err != nil {
			return err
		}
	}
	errs := make([]error, len(w.plan.loads))
	var wg sync.WaitGroup
	for i, l := range w.plan.loads {
		wg.Go(func() {
			if errs[i] = wait(ctx, l.at-w.since()); errs[i] == nil {
				errs[i] = w.bring(ctx, l)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (w *world) bring(ctx context.Context, l load) error {
	c := w.clients[l.project]
	if l.vanish {
		_, err := c.SubmitNDJSON(ctx, io.MultiReader(strings.NewReader(lines(l.tags[:len(l.tags)/2])), gone{}), l.options(""))
		w.say("the client of %s vanished: %v", l.name, err)
		return nil
	}
	ids := make([]string, 1, 2)
	if l.twice {
		ids = ids[:2]
	}
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { ids[i], errs[i] = w.post(ctx, c, l) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if ids[0] != ids[len(ids)-1] {
		return fmt.Errorf("%s: one idempotency key made two batches, %s and %s", l.name, ids[0], ids[1])
	}
	w.mu.Lock()
	w.accepted = append(w.accepted, accepted{l, ids[0]})
	w.mu.Unlock()
	w.say("%s is accepted as %s", l.name, ids[0])
	begun := time.Now()
	for _, m := range l.moves {
		if err := wait(ctx, m.after-time.Since(begun)); err != nil {
			return err
		}
		w.say("%s: %s", l.name, m.verb)
		if err := w.move(ctx, l.project, ids[0], m.verb); err != nil {
			return fmt.Errorf("%s: %s: %w", l.name, m.verb, err)
		}
	}
	return nil
}

// move asks the API to change a batch's course until it has answered.
func (w *world) move(ctx context.Context, project int, id, verb string) error {
	body := ""
	if verb == "retry" {
		body = "{}"
	}
	return w.change(ctx, project, http.MethodPost, "/v1/batches/"+id+"/"+verb, body)
}

// change makes a request until it is answered. That a batch's state forbids it is an answer, too.
func (w *world) change(ctx context.Context, project int, method, path, body string) error {
	return w.insist(ctx, method+" "+path, func(ctx context.Context) error {
		_, err := w.ask(ctx, project, method, path, "application/json", body, "")
		if p, ok := errors.AsType[*client.Problem](err); ok && p.Status == http.StatusConflict {
			return nil
		}
		return err
	})
}

// ask makes one request that the client has no method for, and returns the batch in its answer.
func (w *world) ask(ctx context.Context, project int, method, path, contentType, body, key string) (b client.Batch, err error) {
	req, err := http.NewRequestWithContext(ctx, method, w.api+path, strings.NewReader(body))
	if err != nil {
		return b, err
	}
	req.Header = http.Header{"Authorization": {"Bearer " + w.keys[project]}, "Content-Type": {contentType}}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	res, err := w.http.Do(req)
	if err != nil {
		return b, err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000)) // for people
		return b, &client.Problem{Status: res.StatusCode, Detail: string(text)}
	}
	return b, json.NewDecoder(res.Body).Decode(&b)
}

// post submits until the API has accepted.
func (w *world) post(ctx context.Context, c *client.Client, l load) (id string, err error) {
	err = w.insist(ctx, l.name, func(ctx context.Context) (err error) {
		var b client.Batch
		if l.limit > 0 { // the client knows no limits
			q := url.Values{"kind": {"generate"}, "name": {l.name}, "template": {"word"}, "route": {l.route}, "cache": {l.cache},
				"max_cost_microusd": {strconv.FormatInt(l.limit, 10)}}
			b, err = w.ask(ctx, l.project, http.MethodPost, "/v1/batches?"+q.Encode(), "application/x-ndjson", lines(l.tags), l.name)
		} else {
			b, err = c.SubmitNDJSON(ctx, strings.NewReader(lines(l.tags)), l.options(l.name))
		}
		id = b.ID
		return err
	})
	return id, err
}

func (l load) options(key string) client.BatchOptions {
	return client.BatchOptions{Kind: "generate", Name: l.name, Template: "word", Route: l.route, Cache: l.cache, IdempotencyKey: key}
}

// lines is a submission; a job's custom_id is its position, from 1.
func lines(tags []string) string {
	var b strings.Builder
	for i, tag := range tags {
		fmt.Fprintf(&b, `{"custom_id":"%d","variables":{"tag":%q}}`+"\n", i+1, tag)
	}
	return b.String()
}

// gone is what the rest of a submission reads as when its client is killed.
type gone struct{}

func (gone) Read([]byte) (int, error) { return 0, errors.New("the client is gone") }

// patience is how long a client goes on asking an API that is in trouble.
const patience = 30 * time.Second

// insist repeats a request until it is answered well. A refusal that time can't heal ends it.
func (w *world) insist(ctx context.Context, what string, request func(context.Context) error) error {
	said := ""
	for begun := time.Now(); ; {
		try, cancel := context.WithTimeout(ctx, 4*time.Second)
		err := request(try)
		cancel()
		if err == nil {
			return nil
		}
		if p, ok := errors.AsType[*client.Problem](err); ok && p.Status < http.StatusInternalServerError && p.Status != http.StatusConflict &&
			p.Status != http.StatusTooManyRequests {
			return fmt.Errorf("%s is refused: %w", what, err)
		}
		if time.Since(begun) > patience {
			return fmt.Errorf("%s fails for %s: %w", what, patience, err)
		}
		if err.Error() != said {
			said = err.Error()
			w.say("%s fails and is tried again: %s", what, said)
		}
		if err := wait(ctx, 150*time.Millisecond); err != nil {
			return err
		}
	}
}
