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
	id    string
	until time.Time    // when it expires; zero is never
	sent  int          // jobs
	kept  map[int]bool // positions of jobs that had their answers shortly before the batch expired
}

// template asks for an answer to each tag; see word. The cap is over any answer of the provider's.
const template = `{"system":"You answer %s.","user":"Say the word of {{.tag}}.","variables":{"tag":{"type":"string"}},"sampling":{"max_tokens":40}}`

// wordOf is the name of a key's template.
func wordOf(key int) string { return fmt.Sprintf("word-%d", key) }

// submit brings in all loads of the plan and returns when each is accepted, or its client is gone.
func (w *world) submit(ctx context.Context) error {
	for i, c := range w.clients {
		err := w.insist(ctx, fmt.Sprintf("the templates of key %d", i), func(ctx context.Context) error {
			if _, err := c.SaveTemplate(ctx, wordOf(i), fmt.Appendf(nil, template, customer(i))); err != nil {
				return err
			}
			_, err := c.SaveTemplate(ctx, sayOf(i), fmt.Appendf(nil, sayTemplate, customer(i)))
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, h := range w.plan.hooks {
		if err := w.listen(ctx, h); err != nil {
			return err
		}
	}
	errs := make([]error, len(w.plan.loads)+len(w.plan.budgets)+len(w.plan.timetables))
	var wg sync.WaitGroup
	for i, b := range w.plan.budgets {
		wg.Go(func() { errs[len(w.plan.loads)+i] = w.govern(ctx, i, b) })
	}
	for i, t := range w.plan.timetables {
		wg.Go(func() { errs[len(w.plan.loads)+len(w.plan.budgets)+i] = w.plant(ctx, t) })
	}
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
	if l.vanish && l.parts == 0 {
		_, err := w.clients[l.key].SubmitNDJSON(ctx, io.MultiReader(strings.NewReader(l.lines(0, len(l.tags)/2)), gone{}), l.options(""))
		w.say("the client of %s vanished: %v", l.name, err)
		return nil
	}
	a, err := w.send(ctx, l)
	if p, ok := errors.AsType[*client.Problem](err); ok && p.Status/100 == 4 && l.expires > 0 {
		w.say("%s came when its time was over: %v", l.name, err)
		return nil
	} else if err != nil {
		return err
	}
	w.say("%s is accepted as %s", l.name, a.id)
	begun := time.Now()
	for _, m := range l.moves {
		if err := wait(ctx, m.after-time.Since(begun)); err != nil {
			return err
		}
		w.say("%s: %s", l.name, m.verb)
		if err := w.move(ctx, l.key, a.id, m.verb); err != nil {
			return fmt.Errorf("%s: %s: %w", l.name, m.verb, err)
		}
	}
	if l.expires > 0 {
		a.kept = w.glimpse(ctx, a)
	}
	got := []accepted{a}
	if l.again > 0 {
		if err := wait(ctx, l.again); err != nil {
			return err
		}
		b, err := w.again(ctx, l, a.id, l.name+"-rerun")
		if err != nil {
			return err
		}
		got = append(got, b)
	}
	w.mu.Lock()
	w.accepted = append(w.accepted, got...)
	w.mu.Unlock()
	return nil
}

// send submits a load in its way, until it is accepted.
func (w *world) send(ctx context.Context, l load) (a accepted, err error) {
	a = accepted{load: l, sent: len(l.tags), until: l.expiry()}
	if l.parts > 0 {
		a.id, a.sent, err = w.upload(ctx, l, a.until)
		return a, err
	}
	ids := make([]string, 1, 2)
	if l.twice {
		ids = ids[:2]
	}
	errs := make([]error, len(ids))
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() { ids[i], errs[i] = w.post(ctx, l, a.until) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return a, err
	}
	if ids[0] != ids[len(ids)-1] {
		return a, fmt.Errorf("%s: one idempotency key made two batches, %s and %s", l.name, ids[0], ids[1])
	}
	a.id = ids[0]
	return a, nil
}

// move asks the API to change a batch's course until it has answered.
func (w *world) move(ctx context.Context, key int, id, verb string) error {
	body := ""
	if verb == "retry" {
		body = "{}"
	}
	return w.change(ctx, key, http.MethodPost, "/v1/batches/"+id+"/"+verb, body)
}

// change makes a request until it is answered. That a batch's state forbids it is an answer, too.
func (w *world) change(ctx context.Context, key int, method, path, body string) error {
	return w.insist(ctx, method+" "+path, func(ctx context.Context) error {
		err := w.ask(ctx, key, method, path, "application/json", strings.NewReader(body), "", nil)
		if p, ok := errors.AsType[*client.Problem](err); ok && p.Status == http.StatusConflict {
			return nil
		}
		return err
	})
}

// ask makes one request that the client has no method for, and decodes the answer into out unless that is nil. Errors are
// *[client.Problem], *[offsetProblem] and those of the network.
func (w *world) ask(ctx context.Context, key int, method, path, contentType string, body io.Reader, idempotency string, out any) error {
	req, err := http.NewRequestWithContext(ctx, method, w.api+path, body)
	if err != nil {
		return err
	}
	req.Header = http.Header{"Authorization": {"Bearer " + w.keys[key]}, "Content-Type": {contentType}}
	if idempotency != "" {
		req.Header.Set("Idempotency-Key", idempotency)
	}
	res, err := w.http.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000)) // for people
		p := &client.Problem{Status: res.StatusCode, Detail: string(text)}
		var stated struct {
			Total *int `json:"total_jobs"`
		}
		if json.Unmarshal(text, &stated) == nil && stated.Total != nil {
			return &offsetProblem{p, *stated.Total}
		}
		return p
	}
	if out == nil {
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	return json.NewDecoder(res.Body).Decode(out)
}

// post submits until the API has accepted.
func (w *world) post(ctx context.Context, l load, until time.Time) (id string, err error) {
	err = w.insist(ctx, l.name, func(ctx context.Context) (err error) {
		var b client.Batch
		if l.limit > 0 || !until.IsZero() { // the client knows no limits
			err = w.ask(ctx, l.key, http.MethodPost, "/v1/batches?"+l.query(until).Encode(), ndjson, strings.NewReader(l.lines(0, len(l.tags))), l.name, &b)
		} else {
			b, err = w.clients[l.key].SubmitNDJSON(ctx, strings.NewReader(l.lines(0, len(l.tags))), l.options(l.name))
		}
		id = b.ID
		return err
	})
	return id, err
}

func (l load) options(idempotency string) client.BatchOptions {
	o := client.BatchOptions{Kind: generate, Name: l.name, Template: wordOf(l.key), Route: l.route, Cache: l.cache, IdempotencyKey: idempotency}
	switch l.kind {
	case summarize:
		o.Kind, o.Template, o.Params = summarize, "", summaryOptions(l.key)
	case pipeline:
		o.Kind, o.Template, o.Params = pipeline, "", pipelineOptions(l.key)
	}
	return o
}

// query is the options with those that the client doesn't know.
func (l load) query(until time.Time) url.Values {
	o := l.options("")
	q := url.Values{"kind": {o.Kind}, "name": {o.Name}, "route": {o.Route}, "cache": {o.Cache}}
	if o.Template != "" {
		q.Set("template", o.Template)
	}
	if o.Params != nil {
		q.Set("params", string(o.Params))
	}
	if l.limit > 0 {
		q.Set("max_cost_microusd", strconv.FormatInt(l.limit, 10))
	}
	if !until.IsZero() {
		q.Set("expires_at", until.UTC().Format(time.RFC3339Nano))
	}
	return q
}

// gone is what the rest of a submission reads as when its client is killed.
type gone struct{}

func (gone) Read([]byte) (int, error) { return 0, errors.New("the client is gone") }

// patience is how long a client goes on asking an API that is in trouble: a worker at rest takes half a minute to notice an upload whose API died.
const patience = 60 * time.Second

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
