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
	"time"

	"batchwright/internal/client"
)

// offsetProblem is a refusal that says how many jobs an open upload has.
type offsetProblem struct {
	*client.Problem
	total int
}

func (p *offsetProblem) Unwrap() error { return p.Problem }

// upload is a client's open upload.
type upload struct {
	load
	id   string
	size int // jobs of a part
	have int // that the client knows to be there
}

// upload brings a load in by several requests, and returns the batch's id and how many jobs it has. It ends early when the batch does.
func (w *world) upload(ctx context.Context, l load, until time.Time) (id string, sent int, err error) {
	u := &upload{load: l, size: (len(l.tags) + l.parts - 1) / l.parts}
	q := l.query(until)
	q.Set("open", "true")
	err = w.insist(ctx, l.name, func(ctx context.Context) error {
		var b client.Batch
		err := w.ask(ctx, l.key, http.MethodPost, "/v1/batches?"+q.Encode(), ndjson, strings.NewReader(l.lines(0, u.size)), l.name, &b)
		u.id = b.ID
		return err
	})
	if err != nil {
		return "", 0, err
	}
	u.have = min(u.size, len(l.tags))
	w.say("%s is open as %s", l.name, u.id)
	for n := 1; u.have < len(l.tags); n++ {
		if l.abandon && n > l.parts/2 {
			w.say("the client of %s is gone for good, %d jobs are there", l.name, u.have)
			return u.id, u.have, nil
		}
		if l.vanish {
			if err := w.vanish(ctx, u); err != nil {
				return "", 0, err
			}
		}
		if over, err := w.add(ctx, u); err != nil || over {
			return u.id, u.have, err
		}
	}
	if l.abandon {
		return u.id, u.have, nil
	}
	return u.id, u.have, w.seal(ctx, u)
}

// vanish has the client break off in the middle of a part, and come back after a while with nothing remembered.
func (w *world) vanish(ctx context.Context, u *upload) error {
	try, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	half := io.MultiReader(strings.NewReader(u.lines(u.have, u.have+max(u.size/2, 1))), gone{})
	err := w.ask(try, u.key, http.MethodPost, u.path(u.have), ndjson, half, "", nil)
	w.say("the client of %s vanished: %v", u.name, err)
	return wait(ctx, 100*time.Millisecond)
}

func (u *upload) path(offset int) string {
	return "/v1/batches/" + url.PathEscape(u.id) + "/jobs?offset=" + strconv.Itoa(offset)
}

// add sends the next part until it is there, and goes on from where the server says it is. over says that the batch takes no more.
func (w *world) add(ctx context.Context, u *upload) (over bool, err error) {
	from, to := u.have, min(u.have+u.size, len(u.tags))
	believed := from
	if u.vanish {
		believed = 0
	}
	err = w.insist(ctx, fmt.Sprintf("jobs %d to %d of %s", from+1, to, u.name), func(ctx context.Context) error {
		var added struct {
			Total int `json:"total_jobs"`
		}
		err := w.ask(ctx, u.key, http.MethodPost, u.path(believed), ndjson, strings.NewReader(u.lines(from, to)), "", &added)
		if stated, ok := errors.AsType[*offsetProblem](err); ok {
			added.Total, err = stated.total, nil
		} else if p, ok := errors.AsType[*client.Problem](err); ok && p.Status == http.StatusConflict {
			if over, added.Total, err = w.ended(ctx, u); err == nil && !over {
				return p // another request of ours is still on its way
			}
		}
		if err != nil {
			return err
		}
		switch {
		case added.Total == to || over && added.Total == from:
			u.have = added.Total
		case added.Total == from && believed != from:
			believed = from
			return fmt.Errorf("offset 0 is refused: there are %d jobs", from)
		default:
			w.accuse("%s had %d jobs and was sent %d more, and the server says that it has %d", u.name, from, to-from, added.Total)
			over = true
		}
		return nil
	})
	return over, err
}

// ended reports whether the upload is over, whoever ended it, and how many jobs it has.
func (w *world) ended(ctx context.Context, u *upload) (over bool, total int, err error) {
	b, err := w.clients[u.key].Batch(ctx, u.id)
	return err == nil && b.State != "ingesting", int(b.TotalJobs), err
}

// seal ends the upload, until the batch says so.
func (w *world) seal(ctx context.Context, u *upload) error {
	return w.insist(ctx, "sealing "+u.name, func(ctx context.Context) error {
		err := w.ask(ctx, u.key, http.MethodPost, "/v1/batches/"+url.PathEscape(u.id)+"/seal", "application/json", nil, "", nil)
		if p, ok := errors.AsType[*client.Problem](err); ok && p.Status == http.StatusConflict {
			if over, _, err := w.ended(ctx, u); over || err != nil {
				return err
			}
		}
		return err
	})
}

const ndjson = "application/x-ndjson"

// lines is a part of a submission; a job's custom_id is its position, from 1.
func (l load) lines(from, to int) string {
	var b strings.Builder
	for i, tag := range l.tags[from:min(to, len(l.tags))] {
		if l.kind == summarize {
			name, _ := editionOf(tag)
			fmt.Fprintf(&b, `{"custom_id":"%d","document":{"name":%q,"content_type":"text/plain","text":%s}}`+"\n", from+i+1, name, quoted(documentOf(tag)))
		} else {
			fmt.Fprintf(&b, `{"custom_id":"%d","variables":{"tag":%q}}`+"\n", from+i+1, tag)
		}
	}
	return b.String()
}

func quoted(text string) []byte {
	out, _ := json.Marshal(text) // a string
	return out
}
