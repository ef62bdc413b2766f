package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// ErrStalled is in the chain of the error of a transfer in which no byte moved for a minute, because the server neither
// takes nor sends any. The time that the source of an upload takes for its own bytes doesn't count.
var ErrStalled = errors.New("the connection stands still")

// stall ends a transfer that waits too long for the other side.
type stall struct {
	cancel context.CancelCauseFunc
	timer  *time.Timer
}

func newStall(cancel context.CancelCauseFunc, what string) *stall {
	s := &stall{cancel: cancel}
	s.timer = time.AfterFunc(stallLimit, func() { cancel(fmt.Errorf("%s: %w for %s", what, ErrStalled, stallLimit)) })
	s.timer.Stop()
	return s
}

func (s *stall) arm()    { s.timer.Reset(stallLimit) }
func (s *stall) disarm() { s.timer.Stop() }

// upload is a request body under watch: between two reads of it the connection writes. It isn't an [io.Closer], so that
// the transport leaves closing to the caller.
type upload struct {
	from  io.Reader
	stall *stall

	mu  sync.Mutex // the transport may still read when it has returned an answer
	err error      // of from
}

// Read implements io.Reader.
func (u *upload) Read(p []byte) (int, error) {
	u.stall.disarm()
	n, err := u.from.Read(p)
	if err == nil {
		u.stall.arm()
		return n, nil
	}
	if err != io.EOF {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.err = err
	}
	return n, err
}

// broken returns the error that ended the source, if one did.
func (u *upload) broken() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// download is a response body under watch: while it is read the server is waited for.
type download struct {
	from  io.Reader
	stall *stall
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	d.stall.arm()
	defer d.stall.disarm()
	return d.from.Read(p)
}
