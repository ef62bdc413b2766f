package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Rig starts private servers that are meant to be hurt: each can be killed and started again, on the same port and the same data. It
// serves tests under faults, and knows neither Docker nor imitations: only a process of our own can be killed.
type Rig struct {
	h        *host
	postgres binaries
	redis    redisBinary
	template string
}

// NewRig finds both servers on the machine, or fetches the distribution's packages. Of o, Dir and Notify count.
func NewRig(ctx context.Context, o Options) (*Rig, error) {
	h := &host{ephemeral: true, notify: serialised(o.Notify)}
	r := &Rig{h: h}
	err := h.settle(ctx, o.Dir)
	if err == nil {
		err = r.find(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	return r, nil
}

func (r *Rig) find(ctx context.Context) (err error) {
	if r.postgres, err = r.h.installed(ctx); err != nil {
		if r.postgres, err = r.h.packaged(ctx); err != nil {
			return err
		}
	}
	if r.redis, err = installedRedis(); err != nil {
		if r.redis, err = r.h.unpackedRedis(ctx); err != nil {
			return err
		}
	}
	r.template, err = r.h.template(ctx, r.postgres)
	return err
}

// Folder makes a folder in memory for servers' data, which remove ends. One that a killed process left is removed by a later start.
func (r *Rig) Folder(ctx context.Context) (dir string, remove func() error, err error) {
	dir, lock, err := r.h.scratch(ctx)
	if err != nil {
		return "", nil, fmt.Errorf("embedded: %w", err)
	}
	return dir, func() error { return errors.Join(os.RemoveAll(dir), lock.Close()) }, nil
}

// Server is a server of a [Rig]. It is not safe for concurrent use.
type Server struct {
	URL string
	Log string // path of its log, which each start begins anew

	start func(context.Context) (*process, error)
	p     *process
}

// hurtable are settings for data that must outlive the death of its server, though not the machine's.
var hurtable = []string{
	"fsync=off", "full_page_writes=off", "max_connections=150", "shared_buffers=32MB", "max_wal_size=1GB", "checkpoint_timeout=1h",
	"dynamic_shared_memory_type=mmap",
}

// Postgres makes a server in dir, a folder below a [Rig.Folder], on a free port of 127.0.0.1. Its data is a copy of from, the folder of
// another that was stopped with SIGINT, or is empty when from is. Nothing runs before Start.
func (r *Rig) Postgres(dir string, port int, from string) (*Server, error) {
	template := r.template
	if from != "" {
		template = filepath.Join(from, "data")
	}
	data := filepath.Join(dir, "data")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, r.h.as.privateMode()), r.h.as.own(dir)); err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	if err := r.h.copyCluster(template, data); err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	password, err := os.ReadFile(filepath.Join(data, passwordName))
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	u := url.URL{Scheme: "postgres", User: url.UserPassword(superuser, string(password)), Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		Path: "/postgres", RawQuery: "sslmode=disable"}
	c := cluster{dir: dir, settings: hurtable, farewell: syscall.SIGQUIT}
	return &Server{URL: u.String(), Log: filepath.Join(dir, logName), start: func(ctx context.Context) (*process, error) {
		var p *process
		// After a SIGKILL the children of the dead one may still hold its memory for a moment.
		err := eventually(ctx, 20*time.Millisecond, func() (bool, error) {
			if err := removeStalePid(data); err != nil {
				return false, err
			}
			var err error
			if p, err = r.h.tryCluster(ctx, r.postgres, c, port); errors.Is(err, errExited) {
				return false, nil
			}
			return err == nil, err
		})
		return p, err
	}}, nil
}

// Redis makes a server in dir, a new folder, on a free port of 127.0.0.1. With kept, a restart finds what the one before was told.
func (r *Rig) Redis(dir string, port int, kept bool) (*Server, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	d := redisData{bin: r.redis, dir: dir, port: port, password: secret(), kept: kept}
	return &Server{URL: redisURL(port, d.password), Log: filepath.Join(dir, logName), start: func(ctx context.Context) (*process, error) {
		return tryRedis(ctx, d)
	}}, nil
}

// Start starts the server and waits until it answers.
func (s *Server) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	p, err := s.start(ctx)
	if err != nil {
		return fmt.Errorf("embedded: start %s: %w", s.Log, err)
	}
	s.p = p
	return nil
}

// Stop sends the server a signal and waits until it is gone. When ctx ends first it is killed, which is an error.
func (s *Server) Stop(ctx context.Context, with syscall.Signal) error {
	if s.p == nil {
		return nil
	}
	return s.p.stop(ctx, with)
}
