// Package report explains what batches did. It only reads: a diff goes over two batches side by side, in ranges of their jobs, and says of
// each job whether its answer changed and why.
package report

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"batchwright/internal/jobs"
	"batchwright/internal/prompt"
	"batchwright/internal/store"
)

// Reader is what a diff reads: store.Reader, or a fake of it.
type Reader interface {
	TemplateByID(ctx context.Context, id uuid.UUID) (store.Template, error)
	Match(ctx context.Context, batch, other uuid.UUID, after int32, limit int) ([]store.Match, error)
	DiffJobs(ctx context.Context, before, after store.Batch, pairs []store.Pair, o store.DiffOptions) ([]store.DiffRow, error)
}

// Statuses of an item.
const (
	Same    = "same"
	Changed = "changed"
	New     = "new"
	Gone    = "gone"
)

// Reasons of an item: in what its two jobs differ.
const (
	Input            = "input"
	Template         = "template"
	Sampling         = "sampling"
	Params           = "params"
	Route            = "route"
	AnsweredBy       = "answered_by"
	Expired          = "expired"
	Refreshed        = "refreshed"
	CacheOff         = "cache_off"
	PreviouslyFailed = "previously_failed"
	Failed           = "failed"
	OtherError       = "error"
)

// Diff compares two batches of a project that have ended.
type Diff struct {
	Before, After store.Batch

	read    Reader
	request []string // reasons that hold for every job
}

// Compare prepares a diff. An *[jobs.Error] of code conflict says why the batches can't be compared.
func Compare(ctx context.Context, read Reader, before, after store.Batch) (*Diff, error) {
	refuse := func(format string, a ...any) error {
		return &jobs.Error{Code: jobs.Conflict, Message: fmt.Sprintf(format, a...)}
	}
	if before.Kind != after.Kind {
		return nil, refuse("batch %s is of kind %s and batch %s of kind %s: only batches of one kind have jobs that can be compared", before.ID, before.Kind, after.ID, after.Kind)
	}
	for _, b := range []store.Batch{before, after} {
		if b.FinishedAt == nil {
			return nil, refuse("batch %s is %s: batches are compared when they have ended", b.ID, b.State)
		}
	}
	d := &Diff{Before: before, After: after, read: read}
	if err := d.compareTemplates(ctx); err != nil {
		return nil, err
	}
	if !sameJSON(before.Params, after.Params) {
		d.request = append(d.request, Params)
	}
	if !sameJSON(before.Route, after.Route) {
		d.request = append(d.request, Route)
	}
	return d, nil
}

func (d *Diff) compareTemplates(ctx context.Context) error {
	a, b := d.Before.TemplateID, d.After.TemplateID
	if a == nil || b == nil || *a == *b {
		return nil
	}
	var specs [2]prompt.Spec
	for i, id := range []uuid.UUID{*a, *b} {
		t, err := d.read.TemplateByID(ctx, id)
		if err != nil {
			return fmt.Errorf("report: template: %w", err)
		}
		if specs[i], err = prompt.ParseSpec(t.Spec); err != nil {
			return fmt.Errorf("report: stored template %s: %w", id, err)
		}
	}
	same := func(a, b any) bool {
		x, xerr := json.Marshal(a)
		y, yerr := json.Marshal(b)
		return xerr == nil && yerr == nil && bytes.Equal(x, y)
	}
	if !same(specs[0].Sampling, specs[1].Sampling) {
		d.request = append(d.request, Sampling)
	}
	specs[0].Sampling, specs[1].Sampling = prompt.Sampling{}, prompt.Sampling{}
	if !same(specs[0], specs[1]) {
		d.request = append(d.request, Template)
	}
	return nil
}

// sameJSON compares values that one program wrote.
func sameJSON(a, b json.RawMessage) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// Side is a job in one of the batches.
type Side struct {
	Batch        uuid.UUID
	Seq          int32
	State        string
	CacheStatus  *string
	ErrorClass   *string
	Provider     *string
	Model        *string // as it was asked for
	AnsweredBy   *string // as the provider reported it
	CostMicrousd *int64  // nil: unknown
}

// Item is a job of both batches, or of one.
type Item struct {
	CustomID      *string
	Status        string
	Reasons       []string
	Before, After *Side
	Difference    *int64 // of costs, in micro-dollars; nil when one is unknown
	Text          string // unified diff of the outputs; empty when it wasn't asked for or they don't differ
	Partial       bool   // only the beginnings of the outputs were compared

	place Place
}

// Place is where a diff stands: behind a job of the batch after, or, once all of those were seen, of the batch before.
type Place struct {
	Gone bool
	Seq  int32
}

// String is what ParsePlace reads.
func (p Place) String() string {
	if p.Gone {
		return "gone:" + strconv.Itoa(int(p.Seq))
	}
	return strconv.Itoa(int(p.Seq))
}

// ParsePlace reads a place; an empty text is the beginning.
func ParsePlace(text string) (p Place, err error) {
	if text == "" {
		return Place{}, nil
	}
	text, p.Gone = strings.CutPrefix(text, "gone:")
	n, err := strconv.ParseInt(text, 10, 32)
	if err == nil && n < 0 {
		err = strconv.ErrRange
	}
	p.Seq = int32(n)
	return p, err
}

// DiffOptions narrow a diff.
type DiffOptions struct {
	Status string // empty for all
	Text   bool   // diffs of the outputs
	After  Place
}

const (
	rangeJobs = 5000    // that are compared at once
	textJobs  = 50      // when their outputs are read as well
	maxText   = 64_000  // characters of an output that are compared
	maxTexts  = 10_000  // diffs of outputs in one stream
	pageLook  = 200_000 // jobs that one page looks at, if they are not what it is asked for
)

// Items goes over the jobs of the batch after, in order, and then over those of the batch before that are gone.
func (d *Diff) Items(ctx context.Context, o DiffOptions) iter.Seq2[Item, error] {
	return func(yield func(Item, error) bool) {
		texts := 0
		for w := walkFrom(o.After); w.at != nil; {
			size := rangeJobs
			if o.Text = o.Text && texts < maxTexts; o.Text {
				size = textJobs
			}
			items, err := d.step(ctx, w, size, o.Text, true)
			if err != nil {
				yield(Item{}, err)
				return
			}
			for _, i := range items {
				if i.Text != "" {
					texts++
				}
				if (o.Status == "" || i.Status == o.Status) && !yield(i, nil) {
					return
				}
			}
		}
	}
}

// Page returns at most limit items and where the next page begins; nil at the end. It may have fewer.
func (d *Diff) Page(ctx context.Context, o DiffOptions, limit int) (page []Item, next *Place, err error) {
	w := walkFrom(o.After)
	for looked := 0; w.at != nil && len(page) < limit && looked < pageLook; {
		size := limit
		if o.Status != "" {
			size = rangeJobs
		}
		if o.Text {
			size = min(size, textJobs)
		}
		items, err := d.step(ctx, w, size, o.Text, true)
		if err != nil {
			return nil, nil, err
		}
		looked += size
		for _, i := range items {
			if o.Status != "" && i.Status != o.Status {
				continue
			}
			if len(page) == limit {
				return page, &page[limit-1].place, nil
			}
			page = append(page, i)
		}
	}
	return page, w.at, nil
}

// Summary counts a diff.
type Summary struct {
	Items         int64
	Statuses      map[string]int64
	Reasons       map[string]int64
	Before, After int64 // known costs, in micro-dollars
	Unpriced      int64 // jobs of either batch with unknown cost
}

// Summary counts all items.
func (d *Diff) Summary(ctx context.Context) (Summary, error) {
	s := Summary{Statuses: map[string]int64{Same: 0, Changed: 0, New: 0, Gone: 0}, Reasons: map[string]int64{}}
	for w := walkFrom(Place{}); w.at != nil; {
		items, err := d.step(ctx, w, rangeJobs, false, false)
		if err != nil {
			return s, err
		}
		for _, i := range items {
			s.Items++
			s.Statuses[i.Status]++
			for _, r := range i.Reasons {
				s.Reasons[r]++
			}
			for side, sum := range map[*Side]*int64{i.Before: &s.Before, i.After: &s.After} {
				switch {
				case side == nil:
				case side.CostMicrousd == nil:
					s.Unpriced++
				default:
					*sum += *side.CostMicrousd
				}
			}
		}
	}
	return s, nil
}

// walk is a way over both batches.
type walk struct {
	at    *Place // nil at the end
	whole bool   // it came from the beginning
	last  int32  // the job of the batch before that was found last
	found int64  // how many were, each behind the one before it
}

func walkFrom(p Place) *walk { return &walk{at: &p, whole: p == Place{}} }

// pass notes what a range of the batch after was matched with, and goes on to what is gone from the batch before, unless all of it was found.
func (w *walk) pass(matches []store.Match, size int, before store.Batch) {
	for _, m := range matches {
		if m.Other != nil && *m.Other > w.last { // so that a job which two are matched with counts once
			w.last = *m.Other
			w.found++
		}
	}
	switch {
	case len(matches) == size:
		w.at = &Place{w.at.Gone, matches[size-1].Seq}
	case w.at.Gone || w.whole && w.found > 0 && w.found == before.TotalJobs:
		w.at = nil
	default:
		w.at = &Place{Gone: true}
	}
}

// step compares the next jobs of a walk.
func (d *Diff) step(ctx context.Context, w *walk, size int, text, detail bool) (items []Item, err error) {
	of, other, gone := d.After, d.Before, w.at.Gone
	if gone {
		of, other = d.Before, d.After
	}
	matches, err := d.read.Match(ctx, of.ID, other.ID, w.at.Seq, size)
	if err != nil {
		return nil, err
	}
	w.pass(matches, size, d.Before)
	pairs := make([]store.Pair, 0, len(matches))
	for i := range matches {
		m := &matches[i]
		switch {
		case !gone:
			pairs = append(pairs, store.Pair{Before: m.Other, After: &m.Seq})
		case m.Other == nil:
			pairs = append(pairs, store.Pair{Before: &m.Seq})
		}
	}
	if len(pairs) == 0 {
		return nil, nil
	}
	o := store.DiffOptions{Detail: detail}
	if text {
		o.Text = maxText
	}
	rows, err := d.read.DiffJobs(ctx, d.Before, d.After, pairs, o)
	if err != nil {
		return nil, err
	}
	items = make([]Item, len(rows))
	for i := range rows {
		items[i] = d.item(&rows[i])
	}
	return items, nil
}

func (d *Diff) item(r *store.DiffRow) Item {
	i := Item{CustomID: r.CustomID}
	zero, before, after := int64(0), r.BeforeCost, r.AfterCost
	if r.BeforeSeq != nil {
		i.Before = &Side{d.Before.ID, *r.BeforeSeq, r.BeforeState, r.BeforeCache, r.BeforeError, r.BeforeProvider, r.BeforeModel, r.BeforeBy, r.BeforeCost}
		i.place = Place{true, *r.BeforeSeq}
	} else {
		before = &zero
	}
	if r.AfterSeq != nil {
		i.After = &Side{d.After.ID, *r.AfterSeq, r.AfterState, r.AfterCache, r.AfterError, r.AfterProvider, r.AfterModel, r.AfterBy, r.AfterCost}
		i.place = Place{false, *r.AfterSeq}
	} else {
		after = &zero
	}
	if before != nil && after != nil {
		n := *after - *before
		i.Difference = &n
	}
	switch {
	case i.Before == nil:
		i.Status = New
	case i.After == nil:
		i.Status = Gone
	default:
		i.Status, i.Reasons = d.judge(r)
	}
	if r.BeforeOutput != nil && r.AfterOutput != nil {
		i.Text, i.Partial = unified(*r.BeforeOutput, *r.AfterOutput, r.JSON)
	}
	return i
}

// judge says whether a job came to the same end both times, and in what the two differ.
func (d *Diff) judge(r *store.DiffRow) (status string, reasons []string) {
	reasons = slices.Clone(d.request)
	if !r.SameInput {
		reasons = append(reasons, Input)
	}
	asked := len(reasons) > 0 // for something else
	done := [2]bool{r.BeforeState == "succeeded", r.AfterState == "succeeded"}
	switch done {
	case [2]bool{false, true}:
		return Changed, append(reasons, PreviouslyFailed)
	case [2]bool{true, false}:
		return Changed, append(reasons, Failed)
	case [2]bool{false, false}:
		if r.BeforeState == r.AfterState && equal(r.BeforeError, r.AfterError) {
			return Same, reasons
		}
		return Changed, append(reasons, OtherError)
	}
	status = Same
	if !r.SameOutput {
		status = Changed
	}
	if r.SameRow {
		return status, reasons
	}
	if !equal(r.BeforeProvider, r.AfterProvider) || !equal(r.BeforeModel, r.AfterModel) || !equal(r.BeforeBy, r.AfterBy) {
		reasons = append(reasons, AnsweredBy)
	}
	oldest := d.After.Oldest()
	switch {
	case asked:
	case d.Before.Cache == "off" || d.After.Cache == "off":
		reasons = append(reasons, CacheOff)
	case oldest != nil && r.BeforeMade != nil && r.BeforeMade.Before(*oldest):
		reasons = append(reasons, Expired)
	case !slices.Contains(reasons, AnsweredBy) || d.After.Cache == "refresh":
		reasons = append(reasons, Refreshed)
	}
	return status, reasons
}

func equal[T comparable](a, b *T) bool { return a == b || a != nil && b != nil && *a == *b }
