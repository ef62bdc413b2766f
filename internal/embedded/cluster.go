package embedded

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	superuser    = "batchwright"
	passwordName = "batchwright.password" // in the data folder, so that both come into being in one rename
	logName      = "server.log"

	portTries  = 5
	readyLimit = 60 * time.Second // crash recovery of a large database takes its time
	ghostLimit = 20 * time.Second // how long the server of a killed process may take to go
)

// settings of every private server. Compiling queries needs LLVM, which isn't unpacked, and doesn't pay for ours.
var settings = []string{
	"listen_addresses=127.0.0.1", "unix_socket_directories=", "jit=off", "timezone=" + timezone(),
	"log_timezone=" + timezone(), "logging_collector=off", "log_destination=stderr",
}

// lasting are settings for data that is kept: Postgres's own, which are the safe ones.
var lasting = []string{"max_connections=200"}

// fleeting are settings for data that nobody will miss. Shared memory in mapped files of the data folder goes with
// it, where the default would leave segments of a killed server behind.
var fleeting = []string{
	"fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=300", "shared_buffers=256MB",
	"max_wal_size=2GB", "checkpoint_timeout=1h", "dynamic_shared_memory_type=mmap", "autovacuum_naptime=10min",
}

// timezone is UTC, or its only name that Postgres knows on a machine without tzdata.
func timezone() string {
	if _, err := os.Stat("/usr/share/zoneinfo/UTC"); err != nil {
		return "GMT"
	}
	return "UTC"
}

// startPostgres serves the data that belongs to the installation's major version, making it if need be.
func (h *host) startPostgres(ctx context.Context, bin binaries) (*server, error) {
	if h.ephemeral {
		return h.fleetingPostgres(ctx, bin)
	}
	return h.lastingPostgres(ctx, bin)
}

// lastingPostgres serves <base>/postgres-<major>/data. Two locks guard it. "owner" is held by this process alone: if
// it is taken, another dev command lives. "lock" is inherited by the server and so tells when a dead one's server is
// gone too.
func (h *host) lastingPostgres(ctx context.Context, bin binaries) (_ *server, err error) {
	dir, err := h.lastingDir(bin.major)
	if err != nil {
		return nil, err
	}
	owner, err := tryLock(filepath.Join(dir, "owner"))
	if errors.Is(err, errLocked) {
		return nil, final{fmt.Errorf("another process%s runs the Postgres in %s: stop it, or set DATABASE_URL",
			ownerOf(filepath.Join(dir, "owner")), shown(dir))}
	} else if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			owner.Close()
		}
	}()
	// Only for the message above: the lock is what counts.
	_ = os.WriteFile(filepath.Join(dir, "owner"), []byte(strconv.Itoa(os.Getpid())), 0o644)

	lock, err := h.waitGhost(ctx, filepath.Join(dir, lockName))
	if err != nil {
		return nil, final{fmt.Errorf("the server of an ended process still uses %s: %w", shown(dir), err)}
	}
	defer lock.Close() // the server has its own copy by then

	data := filepath.Join(dir, "data")
	_, err = os.Stat(data)
	existed := err == nil
	if !existed {
		if err := h.initCluster(ctx, bin, data); err != nil {
			return nil, err
		}
	}
	srv, err := h.serveCluster(ctx, bin, cluster{dir: dir, lock: lock, settings: lasting, farewell: syscall.SIGINT})
	if err != nil {
		if existed && ctx.Err() == nil {
			err = final{fmt.Errorf("start the Postgres in %s (log: %s): %w", shown(dir),
				shown(filepath.Join(dir, logName)), err)}
		}
		return nil, err
	}
	srv.line += ", data in " + shown(dir)
	stop := srv.stop
	srv.stop = func(ctx context.Context) error {
		defer owner.Close()
		return stop(ctx)
	}
	return srv, nil
}

// lastingDir is the folder for one major version's data. If the data in it is another user's (a checkout used with
// and without sudo), this user gets a second one.
func (h *host) lastingDir(major int) (string, error) {
	dir := filepath.Join(h.base, fmt.Sprintf("postgres-%d", major))
	data := filepath.Join(dir, "data")
	if _, err := os.Lstat(data); err == nil && !h.as.owns(data) {
		dir += fmt.Sprintf("-uid%d", h.as.uid)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, h.as.privateMode())
}

// ownerOf is the process that wrote its number into the lock file, as a part of a message.
func ownerOf(path string) string {
	text, err := os.ReadFile(path)
	if pid, bad := strconv.Atoi(string(text)); err == nil && bad == nil {
		return fmt.Sprintf(" (pid %d)", pid)
	}
	return ""
}

// waitGhost takes the lock that a server inherits. Its process is dead, so it has been told to go.
func (h *host) waitGhost(ctx context.Context, path string) (*os.File, error) {
	lock, err := tryLock(path)
	if !errors.Is(err, errLocked) {
		return lock, err
	}
	h.notify("postgres: waiting for the server of an ended process to shut down")
	ctx, cancel := context.WithTimeout(ctx, ghostLimit)
	defer cancel()
	return waitLock(ctx, path)
}

// fleetingPostgres serves a copy of the template, which is made once for each major version.
func (h *host) fleetingPostgres(ctx context.Context, bin binaries) (_ *server, err error) {
	template, err := h.template(ctx, bin)
	if err != nil {
		return nil, err
	}
	dir, lock, err := h.scratch(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // the server has its own copy by then
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	if err := h.copyCluster(template, filepath.Join(dir, "data")); err != nil {
		return nil, err
	}
	// SIGQUIT: no checkpoint for data that is about to be removed.
	srv, err := h.serveCluster(ctx, bin, cluster{dir: dir, lock: lock, settings: fleeting, farewell: syscall.SIGQUIT})
	if err != nil {
		return nil, err
	}
	srv.line += ", throw-away data in " + dir
	stop := srv.stop
	srv.stop = func(ctx context.Context) error {
		return errors.Join(stop(ctx), os.RemoveAll(dir))
	}
	return srv, nil
}

// template returns a fresh data folder to copy from: initdb takes ten times as long as the copy. All copies share
// its password, which only this user can read.
func (h *host) template(ctx context.Context, bin binaries) (string, error) {
	dir := filepath.Join(h.base, fmt.Sprintf("template-%s-uid%d", bin.version, h.as.uid))
	data := filepath.Join(dir, "data")
	if _, err := os.Stat(data); err == nil {
		return data, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, h.as.privateMode()); err != nil {
		return "", err
	}
	lock, err := waitLock(ctx, filepath.Join(dir, lockName))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, err := os.Stat(data); err == nil {
		return data, nil // made while we waited
	}
	return data, h.initCluster(ctx, bin, data)
}

// initCluster makes a data folder, as a whole or not at all: it is made beside its place and renamed. There is a
// password for the one user; "C" is the only locale that every machine has. The caller holds a lock on the folder.
func (h *host) initCluster(ctx context.Context, bin binaries, data string) (err error) {
	work, err := workFolder(filepath.Dir(data))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	password := filepath.Join(work, passwordName)
	if err := os.WriteFile(password, []byte(secret()), 0o600); err != nil {
		return err
	}
	if err := h.as.own(work, password); err != nil {
		return err
	}
	args := []string{
		"--pgdata=" + filepath.Join(work, "data"), "--username=" + superuser, "--pwfile=" + password,
		"--auth=scram-sha-256", "--no-locale", "--encoding=UTF8", "--no-instructions",
	}
	if h.ephemeral {
		args = append(args, "--no-sync")
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	if _, err := output(ctx, h.tool(bin, "initdb", args...)); err != nil {
		return err
	}
	if err := os.Rename(password, filepath.Join(work, "data", passwordName)); err != nil {
		return err
	}
	return os.Rename(filepath.Join(work, "data"), data)
}

// copyCluster copies a data folder that no server uses.
func (h *host) copyCluster(from, to string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	for path, mode := range map[string]fs.FileMode{to: 0o700, filepath.Join(to, passwordName): 0o600} {
		if err := os.Chmod(path, mode); err != nil {
			return err
		}
	}
	if !h.as.switchTo {
		return nil
	}
	return filepath.WalkDir(to, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, h.as.own(path))
	})
}

// cluster is a data folder about to be served.
type cluster struct {
	dir      string   // has data and the log
	lock     *os.File // handed to the server; may be nil
	settings []string
	farewell syscall.Signal // how Stop and our own sudden end tell the server
}

// serveCluster starts the server on a free port and waits until it takes connections.
func (h *host) serveCluster(ctx context.Context, bin binaries, c cluster) (*server, error) {
	data := filepath.Join(c.dir, "data")
	password, err := os.ReadFile(filepath.Join(data, passwordName))
	if err != nil {
		return nil, err
	}
	if err := removeStalePid(data); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		p, err := h.tryCluster(ctx, bin, c, port)
		if err != nil {
			if errors.Is(err, errExited) && taken(port) && try < portTries {
				continue // somebody else was faster
			}
			return nil, err
		}
		u := url.URL{
			Scheme: "postgres", User: url.UserPassword(superuser, string(password)),
			Host: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), Path: "/postgres", RawQuery: "sslmode=disable",
		}
		line := fmt.Sprintf("postgres %s: %s, private on %s", bin.version, bin.origin, u.Host)
		if h.as.note != "" {
			line += ", " + h.as.note
		}
		quiet := p.watch(func() {
			h.notify("postgres: the private server ended on its own: " + fatalLine(filepath.Join(c.dir, logName)))
		})
		return &server{url: u.String(), line: line, stop: func(ctx context.Context) error {
			quiet()
			return p.stop(ctx, c.farewell)
		}}, nil
	}
}

// tryCluster starts the server on one port. Its error is errExited if the server gave up.
func (h *host) tryCluster(ctx context.Context, bin binaries, c cluster, port int) (*process, error) {
	data, logPath := filepath.Join(c.dir, "data"), filepath.Join(c.dir, logName)
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := h.tool(bin, "postgres", "-D", data, "-p", strconv.Itoa(port))
	for _, s := range append(settings[:len(settings):len(settings)], c.settings...) {
		cmd.Args = append(cmd.Args, "-c", s)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if c.lock != nil {
		cmd.ExtraFiles = []*os.File{c.lock}
	}
	p, err := spawn(cmd, c.farewell)
	if err != nil {
		return nil, err
	}
	err = eventually(ctx, 5*time.Millisecond, func() (bool, error) {
		if p.gone() {
			return false, fmt.Errorf("postgres %w: %s", errExited, fatalLine(logPath))
		}
		return ready(data, p.cmd.Process.Pid), nil
	})
	if err != nil {
		ended, cancel := context.WithCancel(context.WithoutCancel(ctx))
		cancel()
		return nil, errors.Join(err, p.stop(ended, syscall.SIGKILL))
	}
	return p, nil
}

// ready tells whether postmaster.pid says that the server with this process id takes connections. pg_ctl waits the
// same way: line 1 is the process id, line 8 the state.
func ready(data string, pid int) bool {
	lines := pidFile(data)
	return len(lines) >= 8 && lines[0] == strconv.Itoa(pid) && strings.TrimSpace(lines[7]) == "ready"
}

func pidFile(data string) []string {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return nil
	}
	return strings.Split(string(text), "\n")
}

// removeStalePid removes the postmaster.pid of a server that is gone. The caller holds the lock that servers of ours
// inherit, so it is stale unless somebody started a server on this data by hand: a postmaster's working folder is
// its data folder. Postgres itself would refuse to start if any process had the number now.
//
// Where there is no /proc the file stays, and Postgres decides.
func removeStalePid(data string) error {
	lines := pidFile(data)
	if lines == nil {
		return nil
	}
	if _, err := os.Stat("/proc/self/cwd"); err != nil {
		return nil
	}
	here, err := os.Stat(data)
	if err != nil {
		return err
	}
	if pid, err := strconv.Atoi(lines[0]); err == nil {
		cwd, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
		if err == nil && os.SameFile(cwd, here) {
			return fmt.Errorf("a server that was started by hand (pid %d) uses %s", pid, shown(data))
		}
	}
	return os.Remove(filepath.Join(data, "postmaster.pid"))
}
