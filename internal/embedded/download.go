package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	embeddedpostgres "github.com/fergusstrange/embedded-postgres"
)

const (
	downloadVersion = embeddedpostgres.V17
	downloadLimit   = 3 * time.Minute
	mavenCentral    = "https://repo1.maven.org/maven2"
)

// downloadedPostgres runs the binaries that the library embedded-postgres downloads.
func (h *host) downloadedPostgres(ctx context.Context) (*server, error) {
	dir := filepath.Join(h.base, "packages", "embedded-postgres-"+string(downloadVersion))
	bin, err := h.inspect(ctx, filepath.Join(dir, "bin"), nil)
	if err == nil {
		return h.startPostgres(ctx, bin)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755)); err != nil {
		return nil, err
	}
	lock, err := waitLock(ctx, filepath.Join(dir, lockName))
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if bin, err = h.inspect(ctx, filepath.Join(dir, "bin"), nil); err != nil {
		h.notify("postgres: downloading version " + string(downloadVersion) + " into " + shown(dir))
		if err := h.download(ctx, dir); err != nil {
			return nil, err
		}
		if bin, err = h.inspect(ctx, filepath.Join(dir, "bin"), nil); err != nil {
			return nil, err
		}
	}
	return h.startPostgres(ctx, bin)
}

// download has the library unpack its binaries into dir. It would go on to start a server that outlives a killed
// parent, as root not at all, and it takes no context. So its data folder is one that it can't clear, which is where
// it stops, and it downloads through a proxy of ours, which ends with ctx.
func (h *host) download(ctx context.Context, dir string) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, downloadLimit, fmt.Errorf("no download after %s", downloadLimit))
	defer cancel()
	work, err := workFolder(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	if err := os.Chmod(work, 0o755); err != nil {
		return err
	}
	var unreached atomic.Value // the library only tells the status
	repository, stop, err := repositoryProxy(ctx, h.repository(), func(err error) { unreached.Store(err.Error()) })
	if err != nil {
		return err
	}
	defer stop()
	unpacked := filepath.Join(work, "unpacked")
	failure := embeddedpostgres.NewDatabase(embeddedpostgres.DefaultConfig().
		Version(downloadVersion).
		Port(0). // only looked at to see that it is free
		BinaryRepositoryURL(repository).
		CachePath(filepath.Join(work, "cache")).
		RuntimePath(filepath.Join(work, "runtime")).
		BinariesPath(unpacked).
		DataPath(filepath.Join(work, "data") + "/."). // RemoveAll refuses a path that ends in a dot
		Logger(io.Discard)).Start()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if why, ok := unreached.Load().(string); ok {
		return errors.New(why)
	}
	if !executable(filepath.Join(unpacked, "bin", "postgres")) {
		return failure
	}
	entries, err := os.ReadDir(unpacked)
	if err != nil {
		return err
	}
	// bin comes first in the alphabet and last here: it is what tells that the rest is in place.
	for i := len(entries) - 1; i >= 0; i-- {
		to := filepath.Join(dir, entries[i].Name())
		if err := errors.Join(os.RemoveAll(to), os.Rename(filepath.Join(unpacked, entries[i].Name()), to)); err != nil {
			return err
		}
	}
	return nil
}

// repository is where the binaries come from.
func (h *host) repository() string {
	if h.maven != "" {
		return h.maven
	}
	return mavenCentral
}

// repositoryProxy serves a repository on 127.0.0.1 until stop is called. What it is still fetching when ctx ends
// breaks off. failed gets the errors of reaching the repository, from any goroutine.
func repositoryProxy(ctx context.Context, repository string, failed func(error)) (address string, stop func(), err error) {
	target, err := url.Parse(repository)
	if err != nil {
		return "", nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: 20 * time.Second,
		ForceAttemptHTTP2:     true,
	}
	srv := &http.Server{
		Handler: &httputil.ReverseProxy{
			Transport: transport,
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
				failed(err)
				w.WriteHeader(http.StatusBadGateway)
			},
			Rewrite: func(r *httputil.ProxyRequest) {
				r.Out = r.Out.WithContext(ctx)
				r.SetURL(target)
			},
		},
		ReadHeaderTimeout: 10 * time.Second,
	}
	served := make(chan struct{})
	go func() { // ends with stop
		defer close(served)
		_ = srv.Serve(l) // always an error, once stop closed it
	}()
	return "http://" + l.Addr().String(), func() {
		srv.Close()
		<-served
		transport.CloseIdleConnections()
	}, nil
}
