package jobs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"batchwright/internal/fault"
	"batchwright/internal/pricing"
	"batchwright/internal/prompt"
	"batchwright/internal/source"
	"batchwright/internal/store"
)

// Service is the writing half of the API.
type Service struct {
	DB            *store.DB
	Prices        *pricing.Table
	CheckProvider func(provider, via string) error                  // why no call can go to a provider here, in words for people
	Post          func(ctx context.Context, t []store.Ticket) error // enqueues tickets; may lose or double them
	Log           *slog.Logger
	Sources       *source.Sources // that batches may have; nil for none
	ScheduleFloor time.Duration   // the least time between two ticks of a schedule; default a minute

	CheckExport func(ctx context.Context, project store.Project, e ExportSpec) error // refuses what a run of a schedule could not be written to
}

// Spec is what a submission says about the batch as a whole.
type Spec struct {
	Kind           string
	Name           string
	Template       string          // "name" or "name@version"
	Route          json.RawMessage // a JSON string or object, see ParseRoute
	Params         json.RawMessage
	Open           bool   // take more jobs, until it is sealed
	OnInvalid      string // refuse (default, but for a source) or skip
	Cache          string // use (default), refresh, only or off
	MaxAgeSeconds  *int32 // of answers that the cache gives, before the batch was made; nil for any
	Metadata       map[string]string
	Source         json.RawMessage // where the jobs come from, see source.Spec; nil when they are submitted
	IdempotencyKey string
	Limits         store.Limits
	OnForecastOver string // what to do when the forecast is over the limit on costs: run (default), pause or refuse
	DryRun         bool   // make the forecast, and no call
}

// Line is one job as it was received. Its byte slices need not stay valid when the next line is asked for.
type Line struct {
	Number int             // as the submitter counts, from 1
	Raw    json.RawMessage // the job object
	Upload *Upload         // or a document
	Row    *Row            // or a row of a table
	Err    error           // or why the line couldn't be read
	ID     string          // then: the job's custom_id, if it is known
}

// Upload is a document that came as a file.
type Upload struct {
	Name        string
	ContentType string
	Data        []byte

	Stored   bool    // it comes from another batch or a source, and CustomID is what it has there
	CustomID *string // else its name
}

// maxLineErrors is how many bad lines a refusal lists.
const maxLineErrors = 100

// Submit checks, stores and announces a batch. The same idempotency key with the same submission returns the first batch again, with
// replayed set. An error from lines ends it and is returned as it is: nothing is left then, unless it is a [store.ErrBroken], which leaves
// the batch failed.
//
// Errors are *[Error]: invalid for the batch's own fields, unprocessable with the bad lines unless they are skipped, conflict when the
// idempotency key belongs to another submission, or to one that is being uploaded.
func (s *Service) Submit(ctx context.Context, project store.Project, spec Spec, lines iter.Seq2[Line, error]) (_ store.Batch, replayed bool, err error) {
	in := &intake{service: s, spec: spec, hash: sha256.New()}
	if err := in.open(ctx, project); err != nil {
		return store.Batch{}, false, err
	}
	if spec.Source != nil {
		lines = noLines(lines)
	}
	return in.submit(ctx, lines)
}

// submit stores a submission and announces it, unless its idempotency key made a batch before.
func (in *intake) submit(ctx context.Context, lines iter.Seq2[Line, error]) (_ store.Batch, replayed bool, err error) {
	b, tickets, first, err := in.create(ctx, lines)
	switch {
	case err != nil:
		return store.Batch{}, false, err
	case first != nil:
		return in.replay(*first, lines)
	}
	fault.Point("ingest-sealed")
	if !b.OpenUpload {
		in.service.announce(ctx, b, tickets)
	}
	return b, false, nil
}

// create stores a submission, or returns the batch that its idempotency key made before; then no line was read yet.
func (in *intake) create(ctx context.Context, lines iter.Seq2[Line, error]) (b store.Batch, tickets []store.Ticket, first *store.Batch, err error) {
	db, key := in.service.DB, in.spec.IdempotencyKey
	for range 3 { // as often as a key may be taken and set free between two looks
		if key != "" {
			before, err := db.BatchByKey(ctx, in.row.ProjectID, key)
			if err == nil {
				return store.Batch{}, nil, &before, uploading(before)
			} else if !errors.Is(err, store.ErrNotFound) {
				return store.Batch{}, nil, nil, err
			}
		}
		if in.rerun != nil && !in.rerun.lists {
			b, tickets, err = in.runAgain(ctx, lines)
		} else {
			b, tickets, err = db.CreateBatch(ctx, in.row, in.chunks(lines), in.seal)
		}
		if key == "" || !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	if dup, ok := errors.AsType[*store.DuplicateError](err); ok {
		err = in.duplicates(dup)
	}
	return b, tickets, nil, inWords(err)
}

// uploading refuses the repeat of a submission whose first request is still under way.
func uploading(b store.Batch) error {
	if b.State != "ingesting" || b.OpenUpload {
		return nil
	}
	return &Error{Code: Conflict, Field: "Idempotency-Key",
		Message: fmt.Sprintf("is that of a submission that is being uploaded right now, as batch %s: wait for its end", b.ID)}
}

// intake reads one submission.
type intake struct {
	service *Service
	spec    Spec
	kind    kind
	batch   *batch
	row     store.NewBatch
	hash    hash.Hash       // nil when nothing is compared with it
	base    int32           // jobs that the batch had before
	rerun   *rerun          // nil unless the lines are changes to another batch's jobs
	seq     int32           // jobs read
	columns *prompt.Columns // of the table, if the lines are its rows
	numbers []number        // where line numbers and sequence numbers part
	bad     []LineError
	badN    int
}

// number says that from seq on, a job's line is seq + ahead.
type number struct {
	seq   int32
	ahead int
}

func (in *intake) open(ctx context.Context, project store.Project) error {
	s, spec := in.service, &in.spec
	k, kerr := kindByName(spec.Kind)
	if kerr != nil {
		return kerr
	}
	in.kind = k
	if spec.OnInvalid == "" && spec.Source != nil { // one file that can't be read doesn't keep the others from being
		spec.OnInvalid = "skip"
	}
	if err := oneOf("on_invalid", &spec.OnInvalid, "refuse", "skip"); err != nil {
		return err
	}
	if err := oneOf("cache", &spec.Cache, "use", "refresh", "only", "off"); err != nil {
		return err
	}
	if err := oneOf("on_forecast_over", &spec.OnForecastOver, runs, pauses, refuses); err != nil {
		return err
	}
	switch {
	case spec.OnForecastOver != runs && spec.Limits.MaxCostMicrousd == nil:
		return invalidf("on_forecast_over", "has no meaning without max_cost_microusd: set that as well, or leave this out")
	case spec.DryRun && spec.Open:
		return invalidf("dry_run", "has no meaning with open, whose jobs aren't all there yet: leave one of them out")
	case spec.DryRun && spec.Source != nil:
		return invalidf("dry_run", "has no meaning with a source, whose jobs a worker gathers later: leave it out, and set max_cost_microusd with on_forecast_over instead")
	case spec.DryRun && spec.IdempotencyKey != "":
		return invalidf("Idempotency-Key", "has no meaning with dry_run, which makes no batch that could be replayed: leave it out")
	}
	if spec.MaxAgeSeconds != nil && spec.Cache != "use" && spec.Cache != "only" {
		return invalidf("max_age_seconds", "has no meaning with cache=%s, which takes no answer of any age: leave one of them out", spec.Cache)
	}
	if len(spec.Name) > 200 || !utf8.ValidString(spec.Name) {
		return invalidf("name", "is longer than 200 bytes or not valid UTF-8")
	}
	if at := spec.Limits.ExpiresAt; at != nil && !at.After(time.Now()) {
		return invalidf("expires_at", "has passed: leave it out, or give a time to come")
	}
	s, err := s.of(ctx, project.ID)
	if err != nil {
		return err
	}
	route, routeID, err := s.resolveRoute(ctx, project.ID, spec.Route, k)
	if err != nil {
		return err
	}
	params, perr := k.params(spec.Params)
	if perr != nil {
		return perr
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	routeJSON, err := json.Marshal(route)
	if err != nil {
		return err
	}
	if spec.Metadata == nil {
		spec.Metadata = map[string]string{}
	}
	metadata, err := json.Marshal(spec.Metadata)
	if err != nil {
		return err
	}
	if len(metadata) > 16<<10 || bytes.Contains(metadata, []byte(`\u0000`)) {
		return invalidf("metadata", "is over 16 KiB or has a NUL character")
	}
	in.row = store.NewBatch{ID: id, ProjectID: project.ID, Name: clean(spec.Name), Kind: spec.Kind, RouteID: routeID, Route: routeJSON, Params: params,
		Metadata: metadata, OnInvalid: spec.OnInvalid, Cache: spec.Cache, IdempotencyKey: spec.IdempotencyKey, Open: spec.Open,
		APIKeyID: project.KeyID, Limits: spec.Limits, MaxAgeSeconds: spec.MaxAgeSeconds,
		OnForecastOver: spec.OnForecastOver, DryRun: spec.DryRun}
	in.batch = &batch{kind: k, route: route, check: s.checkModel}
	if err := in.openTemplate(ctx, project.ID); err != nil {
		return err
	}
	if err := in.batch.checkForms(); err != nil {
		return err
	}
	if _, staged := k.(pipeline); staged {
		in.batch.ProjectID, in.batch.Params = project.ID, params
		if err := s.openStages(ctx, in.batch); err != nil {
			return err
		}
		in.row.Params = in.batch.Params
	}
	if spec.Source != nil {
		if err := in.openSource(ctx, project); err != nil {
			return err
		}
	}
	about := []any{spec.Kind, spec.Name, spec.Template, spec.Route, spec.Params, spec.OnInvalid, spec.Cache, spec.Metadata, spec.Limits}
	if spec.Open {
		about = append(about, "open")
	}
	if spec.MaxAgeSeconds != nil {
		about = append(about, "max_age_seconds", *spec.MaxAgeSeconds)
	}
	if spec.Source != nil {
		about = append(about, "source", spec.Source)
	}
	if spec.OnForecastOver != runs {
		about = append(about, "on_forecast_over", spec.OnForecastOver)
	}
	if r := in.rerun; r != nil { // what was asked, not what it came to
		about = []any{"rerun", r.source.ID, r.asked}
	}
	head, err := json.Marshal(about)
	if err != nil {
		return err
	}
	in.absorb(head)
	return nil
}

// oneOf checks that a value is one of those allowed, and takes the first for none.
func oneOf(field string, value *string, allowed ...string) *Error {
	if *value == "" {
		*value = allowed[0]
	}
	if !slices.Contains(allowed, *value) {
		return invalidf(field, "%.40q is unknown: want %s", *value, strings.Join(allowed, ", "))
	}
	return nil
}

func (in *intake) openTemplate(ctx context.Context, project uuid.UUID) error {
	name := in.spec.Template
	if !in.kind.needsTemplate() {
		if name != "" {
			return invalidf("template", "the kind %s takes none", in.spec.Kind)
		}
		return nil
	}
	if name == "" {
		return invalidf("template", "is missing: the kind %s renders one", in.spec.Kind)
	}
	t, err := in.service.template(ctx, project, name)
	if err != nil {
		return err
	}
	in.row.TemplateID = &t.ID
	in.batch.spec, in.batch.template, err = compileTemplate(t.Spec)
	return err
}

// template finds a template by "name" or "name@version".
func (s *Service) template(ctx context.Context, project uuid.UUID, ref string) (store.Template, error) {
	name, version, err := splitVersion(ref)
	if err != nil {
		return store.Template{}, invalidf("template", "%s", err.Error())
	}
	t, err := s.DB.TemplateByName(ctx, project, name, version)
	if errors.Is(err, store.ErrNotFound) {
		err = invalidf("template", "unknown template %.80q: save it first with POST /v1/templates", ref)
	}
	return t, err
}

// absorb adds a part to the submission's hash, with its length, so that parts can't run into one another.
func (in *intake) absorb(part []byte) {
	var n [8]byte
	for i := range n {
		n[i] = byte(len(part) >> (8 * i))
	}
	in.hash.Write(n[:])
	in.hash.Write(part)
}

func (in *intake) absorbLine(l Line) {
	if in.hash == nil {
		return
	}
	if u := l.Upload; u != nil {
		in.absorb([]byte(u.Name))
		in.absorb([]byte(u.ContentType))
		in.absorb(u.Data)
		return
	}
	if l.Row != nil {
		for i, cell := range l.Row.Cells {
			in.absorb([]byte(l.Row.Head[i]))
			in.absorb([]byte(cell))
		}
		return
	}
	if l.Raw == nil { // unreadable: its number and reason stand for it
		in.absorb(fmt.Appendf(nil, "%d %v", l.Number, l.Err))
	}
	in.absorb(l.Raw)
}

// Chunks end at whichever of these comes first.
const (
	chunkLines = 5000
	chunkBytes = 4 << 20
)

// chunks checks the lines and gathers the good ones. After a bad line, unless bad ones are skipped, it only counts.
func (in *intake) chunks(lines iter.Seq2[Line, error]) iter.Seq2[store.Chunk, error] {
	return func(yield func(store.Chunk, error) bool) {
		var c store.Chunk
		size := 0
		for l, err := range lines {
			if err != nil {
				yield(store.Chunk{}, err)
				return
			}
			in.absorbLine(l)
			if l.Row != nil {
				if err := in.openTable(l.Row); err != nil {
					yield(store.Chunk{}, err)
					return
				}
			}
			row, doc, problem := in.accept(l)
			if problem != nil {
				in.note(*problem)
				if in.spec.OnInvalid == "refuse" {
					c = store.Chunk{}
					continue
				}
				row = in.skipped(l, problem)
			} else if in.badN > 0 && in.spec.OnInvalid == "refuse" {
				continue
			}
			c.Inputs = append(c.Inputs, row)
			size += len(row.Input) + 64
			if doc != nil {
				c.Documents = append(c.Documents, *doc)
				size += len(doc.Body)
			}
			if len(c.Inputs) >= chunkLines || size >= chunkBytes {
				if !yield(c, nil) {
					return
				}
				fault.Point("ingest-chunk")
				c, size = store.Chunk{Inputs: make([]store.NewInput, 0, len(c.Inputs))}, 0
			}
		}
		if err := in.end(); err != nil {
			yield(store.Chunk{}, err)
			return
		}
		if len(c.Inputs) > 0 {
			yield(c, nil)
			fault.Point("ingest-chunk")
		}
	}
}

func (in *intake) end() error {
	switch {
	case in.badN > 0 && in.spec.OnInvalid == "refuse":
		return &Error{Code: Unprocessable, Field: "jobs", LineCount: in.badN, Lines: in.bad,
			Message: fmt.Sprintf("%d of %d jobs can't be run; nothing was accepted. Correct them, or submit with on_invalid=skip", in.badN, in.seq)}
	case in.seq == 0 && !in.row.Open && in.rerun == nil:
		return invalidf("jobs", "is empty: a batch has at least one job")
	}
	return nil
}

func (in *intake) note(e LineError) {
	in.badN++
	if len(in.bad) < maxLineErrors {
		in.bad = append(in.bad, e)
	}
}

func (in *intake) accept(l Line) (store.NewInput, *store.NewDocument, *LineError) {
	in.seq++
	if ahead := l.Number - int(in.seq); len(in.numbers) == 0 && ahead != 0 || len(in.numbers) > 0 && in.numbers[len(in.numbers)-1].ahead != ahead {
		in.numbers = append(in.numbers, number{in.seq, ahead})
	}
	row := store.NewInput{Seq: in.base + in.seq}
	if l.Err != nil {
		problem := &LineError{Line: l.Number, Code: "unreadable", Message: l.Err.Error()}
		if len(l.ID) <= maxCustomID {
			problem.CustomID = l.ID
		}
		return row, nil, problem
	}
	parse := parseLine
	switch {
	case in.rerun != nil:
		parse = in.rerun.parse
	case l.Row != nil:
		parse = func(l Line) (*line, *LineError) { return parseRow(in.columns, l) }
	}
	parsed, problem := parse(l)
	if problem != nil {
		return row, nil, problem
	}
	row.CustomID = parsed.CustomID
	if parsed.removed {
		row.Invalid = store.Removed()
		return row, nil, nil
	}
	input, doc, problem := in.kind.accept(in.batch, parsed)
	if problem != nil {
		return row, nil, problem
	}
	row.Input = input
	if doc != nil {
		row.DocumentSHA256 = doc.SHA256
	}
	return row, doc, nil
}

// skipped is the row of a bad line in a batch that skips them: it becomes a failed job.
func (in *intake) skipped(l Line, problem *LineError) store.NewInput {
	row := store.NewInput{Seq: in.base + in.seq}
	if problem.CustomID != "" {
		row.CustomID = &problem.CustomID
	}
	row.Invalid = problem.stored(fmt.Sprintf("line %d", l.Number))
	return row
}

// stored is what is kept of a problem with a job; where says which line or job it is.
func (e *LineError) stored(where string) json.RawMessage {
	message := e.Message
	if e.Field != "" {
		message = e.Field + ": " + message
	}
	reason, err := json.Marshal(storedReason{e.Code, e.Field, where + ": " + message})
	if err != nil {
		return json.RawMessage(`{"code":"invalid","message":"the line can't be run"}`)
	}
	return reason
}

type storedReason struct {
	Code    string `json:"code"`
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

func storedProblem(raw json.RawMessage) string {
	var r storedReason
	if err := json.Unmarshal(raw, &r); err != nil {
		return "the line can't be run"
	}
	return clean(r.Message)
}

func (in *intake) seal() (int32, [32]byte) { return in.seq, [32]byte(in.hash.Sum(nil)) }

// replay consumes a stream whose idempotency key is known, to tell a repeat from another submission.
func (in *intake) replay(first store.Batch, lines iter.Seq2[Line, error]) (store.Batch, bool, error) {
	for l, err := range lines {
		if err != nil {
			return store.Batch{}, false, err
		}
		in.absorbLine(l)
	}
	return in.compare(first)
}

func (in *intake) compare(first store.Batch) (store.Batch, bool, error) {
	if !bytes.Equal(in.hash.Sum(nil), first.RequestSHA256) {
		return store.Batch{}, false, &Error{Code: Conflict, Field: "Idempotency-Key",
			Message: "belongs to another submission: use a new key, or send the same bytes again"}
	}
	return first, true, nil
}

func (in *intake) duplicates(d *store.DuplicateError) *Error {
	e := &Error{Code: Unprocessable, Field: "jobs", LineCount: len(d.Duplicates),
		Message: "custom_ids are not unique; nothing was accepted. Correct them, or submit with on_invalid=skip"}
	for _, dup := range d.Duplicates {
		e.Lines = append(e.Lines, LineError{Line: in.line(dup.Seq), CustomID: dup.CustomID, Field: "custom_id", Code: "duplicate_custom_id",
			Message: fmt.Sprintf("is the same as in line %d: give each job its own", in.line(dup.FirstSeq))})
	}
	return e
}

// line returns the submitter's number of a job.
func (in *intake) line(seq int32) int {
	ahead := 0
	for _, n := range in.numbers {
		if n.seq > seq {
			break
		}
		ahead = n.ahead
	}
	return int(seq) + ahead
}

// SaveTemplate checks a template and stores it as the next version of its name; the same template again is the version that is there.
func (s *Service) SaveTemplate(ctx context.Context, project uuid.UUID, name string, raw json.RawMessage) (store.Template, bool, error) {
	if err := checkName(name); err != nil {
		return store.Template{}, false, err
	}
	spec, _, err := compileInput(raw)
	if err != nil {
		return store.Template{}, false, err
	}
	stable, err := json.Marshal(spec)
	if err != nil {
		return store.Template{}, false, err
	}
	return s.DB.SaveTemplate(ctx, project, name, stable)
}

// ownKey is a result key that no look-up can hit: for batches that keep out of the cache.
func ownKey(batch uuid.UUID, seq int32) prompt.Key {
	return prompt.DeriveKey("job", []byte(JobID(batch, seq)))
}
