package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
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

// move asks the API to change a batch's course until it has answered. That the batch's state forbids it is an answer, too.
func (w *world) move(ctx context.Context, project int, id, verb string) error {
	return w.insist(ctx, verb+" "+id, func(ctx context.Context) error {
		var body io.Reader
		if verb == "retry" {
			body = strings.NewReader("{}")
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.api+"/v1/batches/"+id+"/"+verb, body)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+w.keys[project])
		req.Header.Set("Content-Type", "application/json")
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode/100 == 2 || res.StatusCode == http.StatusConflict {
			return nil
		}
		return &client.Problem{Status: res.StatusCode, Title: verb}
	})
}

// post submits until the API has accepted.
func (w *world) post(ctx context.Context, c *client.Client, l load) (id string, err error) {
	err = w.insist(ctx, l.name, func(ctx context.Context) error {
		b, err := c.SubmitNDJSON(ctx, strings.NewReader(lines(l.tags)), l.options(l.name))
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
		w.say("%s fails and is tried again: %v", what, err)
		if err := wait(ctx, 150*time.Millisecond); err != nil {
			return err
		}
	}
}
