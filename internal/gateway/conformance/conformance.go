// Package conformance holds whoever runs Universal requests to the same promises, over real HTTP: the in-process engine,
// a server that speaks Cloudflare's protocol, and the Cloudflare client talking to one.
//
// A [Case] is a promise and the story that shows it. What differs by protocol stands in the case: the engine stops at a
// request that no step can take, the wire goes to the next step after anything that is not 2xx. A case that a kind of
// target can't show says why in its Not; nothing is skipped without a word. Providers are played by a [Backend] on
// loopback. After every case nothing secret may be found in what was logged, told or kept.
//
// What holds without a network, in fake time, is gatewaytest.Conform's.
package conformance

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"batchwright/internal/gateway"
)

// Kind is a way to be asked.
type Kind string

// The kinds of targets.
const (
	Engine Kind = "engine" // a gateway.Gateway that talks to the providers itself
	Wire   Kind = "wire"   // a server, posted to with nothing but package http
	Client Kind = "client" // a gateway.Gateway that posts to such a server
)

// Kinds are all of them.
var Kinds = []Kind{Engine, Wire, Client}

// Target is what the suite runs against.
type Target struct {
	Name string
	Kind Kind
	// Open returns a fresh one, which ends with the test: nothing of an earlier case is in its cache or its log.
	Open func(t *testing.T, s Setup) Subject
	// Known lists the cases that it doesn't pass yet, with the reason.
	Known map[string]string
}

// Setup is what a case wants of the gateway.
type Setup struct {
	Backend *Backend // serves all of [Providers]
	Keys    bool     // the gateway holds the providers' keys; else they come with each request

	MaxAnswerBytes  int64         // 0 is the default
	Idle            time.Duration // between two pieces of an answer; 0 is the default
	Patience        time.Duration // with a provider's Retry-After; 0 is the default
	Attempts        int           // of the client, for its whole request; 0 is 1
	MaxRequestBytes int64         // that a server takes; 0 is the default
	WrongToken      bool          // the client has a wrong token
	NoKey           string        // a provider of which nobody has a key
	Cache           time.Duration // how long a server's gateway keeps answers, where a request doesn't say; 0: it doesn't

	Log *slog.Logger // takes everything
}

// Subject is an opened target. Engine and Client have a Gateway, Wire and Client a URL.
type Subject struct {
	Gateway gateway.Gateway
	URL     string // of the server's gateway: http://host/v1/account/gateway
	Token   string // for cf-aig-authorization

	Rows  func(t testing.TB, n int) []Row // waits until the server's log has n rows, the oldest first
	Kept  func() []time.Duration          // for how long each answer was put into the cache, in order
	Other func(t testing.TB) (url string) // another gateway of the same server, with the same settings
}

// Row is one request in a server's log, as its management API tells it.
type Row struct {
	ID, EventID, Provider, Model string
	Status                       int
	Success, Cached              bool
	Step                         int
	TokensIn, TokensOut          int64
	Request, Response            string // the bodies
}

// Case is one promise.
type Case struct {
	Name string
	Not  map[Kind]string // kinds that can't show it, and why
	Run  func(t *testing.T, p *Play)
}

// Cases returns all of them.
func Cases() []Case {
	return slices.Concat(failureCases(), chainCases(), timeCases(), retryCases(), cacheCases(), streamCases(), requestCases(), byteCases(), sizeCases(),
		authCases(), nativeCases())
}

// Run runs every case that the target's kind can show.
func Run(t *testing.T, target Target) {
	for _, c := range Cases() {
		if c.Not[target.Kind] != "" {
			continue
		}
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			if why := target.Known[c.Name]; why != "" {
				t.Skip("known: " + why)
			}
			c.run(t, target)
		})
	}
}

func (c Case) run(t *testing.T, target Target) {
	p := &Play{target: target, Kind: target.Kind, Backend: NewBackend(t), log: &journal{}, said: &said{}}
	c.Run(t, p)
	p.checkSecrets(t)
}

// Play is a case at work.
type Play struct {
	Kind    Kind
	Backend *Backend
	Subject Subject

	target Target
	setup  Setup
	log    *journal
	said   *said
}

// open opens the target.
func (p *Play) open(t *testing.T, s Setup) {
	t.Helper()
	s.Backend = p.Backend
	s.Log = slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p.setup, p.Subject = s, p.target.Open(t, s)
}

// secrets are what no log and no error may hold.
func (p *Play) secrets() []string {
	s := []string{Prompt, Echo}
	for _, name := range Providers {
		s = append(s, Key(name))
	}
	if p.Subject.Token != "" {
		s = append(s, p.Subject.Token)
	}
	return s
}

// checkSecrets looks for secrets where none may be.
func (p *Play) checkSecrets(t *testing.T) {
	t.Helper()
	for _, s := range p.secrets() {
		if log := p.log.String(); strings.Contains(log, s) {
			t.Errorf("the log holds %q: %s", s, around(log, s))
		}
		for _, said := range p.said.all() {
			if strings.Contains(said, s) {
				t.Errorf("an error holds %q: %s", s, around(said, s))
			}
		}
	}
}

// around is a piece of text with what was found in it.
func around(text, found string) string {
	i := strings.Index(text, found)
	return text[max(0, i-100):min(len(text), i+len(found)+100)]
}

// said holds every error that was returned, and every failure of the gateway's own.
type said struct {
	mu    sync.Mutex
	texts []string
}

func (s *said) add(texts ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.texts = append(s.texts, texts...)
}

func (s *said) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.texts)
}

// journal is a log that can be read while it is written.
type journal struct {
	mu sync.Mutex
	b  bytes.Buffer
}

var _ io.Writer = (*journal)(nil)

// Write implements io.Writer.
func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.Write(p)
}

// String returns what was written so far.
func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.b.String()
}

// Table lists, per case, the kinds that run it and why the others don't.
func Table() string {
	var b strings.Builder
	for _, c := range Cases() {
		fmt.Fprintf(&b, "%s\n", c.Name)
		for _, k := range Kinds {
			if why := c.Not[k]; why != "" {
				fmt.Fprintf(&b, "\tnot %s: %s\n", k, why)
			}
		}
	}
	return b.String()
}

// eventually polls until ok, for what a target does behind its answer.
func eventually(ctx context.Context, ok func() bool) bool {
	late := time.NewTimer(patience)
	defer late.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late.C:
			return ok()
		case <-ctx.Done():
			return false
		}
	}
	return true
}
