package jobs

import (
	"context"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// partCalls makes the calls of a job that takes several, and keeps their answers.
type partCalls struct {
	t *task

	mu   sync.Mutex
	step int  // the last step of the route that answered any of it
	hit  bool // the gateway's cache answered all calls
}

func (c *partCalls) note(part result) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.step, c.hit = max(c.step, part.step), c.hit && part.hit
}

// partsAtOnce is how many calls of one document may be in flight at once. In a batch whose concurrency is limited it is one, so that there
// are never more calls than jobs.
const partsAtOnce = 8

// each answers requests side by side. What was answered before isn't asked again: else a budget with room for one call at a time would be
// spent on the first of them.
// Equal requests are one. The answer to a job's only request is kept as the job's, and not as a part.
func (c *partCalls) each(ctx context.Context, requests []*prompt.Request, only bool) ([]result, error) {
	out := make([]result, len(requests))
	if only {
		part, err := c.t.complete(ctx, requests[0])
		out[0] = part
		c.note(part)
		return out, err
	}
	names := c.t.route.answerers("")
	keys, first, firsts := make([][]prompt.Key, len(requests)), make(map[prompt.Key]int, len(requests)), make([]int, 0, len(requests))
	for i, r := range requests {
		keys[i] = r.Keys(names)
		if _, ok := first[keys[i][0]]; !ok {
			first[keys[i][0]] = i
			firsts = append(firsts, i)
		}
	}
	distinct := make([][]prompt.Key, len(firsts))
	for n, i := range firsts {
		distinct[n] = keys[i]
	}
	before, err := c.t.earlier(ctx, distinct)
	if err != nil {
		return nil, err
	}
	for n, i := range firsts {
		if a := before[n]; a != nil {
			out[i] = fromCache(a, c.t.stepOf(names[slices.Index(keys[i], prompt.Key(a.Key))]))
		}
	}
	g, gctx := errgroup.WithContext(ctx)
	if c.t.batch.standing().Concurrency != nil {
		g.SetLimit(1)
	} else {
		g.SetLimit(partsAtOnce)
	}
	for _, i := range firsts {
		if out[i].reused {
			c.note(out[i])
			continue
		}
		g.Go(guarded(func() error {
			if gctx.Err() != nil {
				return context.Cause(gctx)
			}
			part, err := c.t.complete(ctx, requests[i]) // not gctx: what is in flight when another part fails is paid for, and kept
			if err != nil {
				return err
			}
			out[i] = part
			c.note(part)
			return c.t.keepPart(context.WithoutCancel(ctx), part) // paid for, whatever becomes of the others
		}))
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	for i := range out {
		if j := first[keys[i][0]]; j != i {
			out[i] = out[j]
			out[i].reused = true
		}
	}
	return out, nil
}

// stepOf returns the first step that brings an answerer's answers.
func (t *task) stepOf(answerer string) int {
	return slices.IndexFunc(t.route.Steps, func(s RouteStep) bool { return s.answerer("") == answerer })
}

// earlier returns for each request, by its keys, the answer that there is under the first of them; nil for none. A batch that keeps out of the
// cache has what an earlier attempt at the same job was answered: it is paid for.
func (t *task) earlier(ctx context.Context, keys [][]prompt.Key) ([]*store.Answer, error) {
	out := make([]*store.Answer, len(keys))
	if !t.batch.Reads() && t.lease.ticket.Purpose != store.PurposeRetry {
		return out, nil
	}
	stored := func(k prompt.Key) prompt.Key {
		if t.batch.Reads() {
			return k
		}
		return t.partKey(k)
	}
	var flat [][]byte
	for _, ks := range keys {
		for _, k := range ks {
			k = stored(k)
			flat = append(flat, k[:])
		}
	}
	answers, err := t.w.DB.LookUp(ctx, t.batch.ProjectID, flat, t.batch.Oldest())
	if err != nil {
		return nil, t.fault("look up parts", err)
	}
	known := make(map[prompt.Key]store.Answer, len(answers))
	for _, a := range answers {
		known[prompt.Key(a.Key)] = a
	}
	for i, ks := range keys {
		for _, k := range ks {
			if a, ok := known[stored(k)]; ok {
				a.Key = k[:] // as everybody knows it
				out[i] = &a
				break
			}
		}
	}
	return out, nil
}

// fromCache makes a result of an earlier answer, which the step brought.
func fromCache(a *store.Answer, step int) result {
	return result{output: a.Output, format: a.Format, step: step, model: a.Model, by: a.AnsweredBy, resultKey: prompt.Key(a.Key), hit: true, reused: true}
}

// keepPart writes a part answer, and the calls so far, before the rest of the job is done.
func (t *task) keepPart(ctx context.Context, part result) error {
	answer := store.Completion{
		ProjectID: t.batch.ProjectID, Key: part.resultKey, Refresh: t.batch.Renews(), Model: part.model, Provider: t.route.Steps[part.step].Provider,
		AnsweredBy: clean(part.by), Format: part.format, Output: clean(part.output), Details: part.details,
	}
	if t.batch.Reads() {
		return t.flush(ctx, answer)
	}
	own := answer
	own.Key, own.Refresh = t.partKey(answer.Key), false
	if t.batch.Cache == "off" {
		return t.flush(ctx, own)
	}
	return t.flush(ctx, own, answer)
}

// partKey is a key of a part's answer that only this job looks up.
func (t *task) partKey(k prompt.Key) prompt.Key {
	return prompt.DeriveKey("part", []byte(JobID(t.batch.ID, t.job.Seq)), k[:])
}
