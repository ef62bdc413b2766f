package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/alicebob/miniredis/v2"
)

// redisSources are the ways to a Redis, best first.
func (h *host) redisSources() []source {
	return []source{
		{"machine", h.machineRedis},
		{"apt", h.aptRedis},
		{"docker", h.dockerRedis},
		{"miniredis", h.miniRedis},
	}
}

// redisBinary is a redis-server, or one that speaks its protocol and takes its options.
type redisBinary struct {
	path      string
	libraries []string
	origin    string
}

func (r redisBinary) command(args ...string) *exec.Cmd {
	cmd := exec.Command(r.path, args...)
	cmd.Env = serverEnv(r.libraries)
	return cmd
}

// machineRedis runs the server that is installed.
func (h *host) machineRedis(ctx context.Context) (*server, error) {
	bin, err := installedRedis()
	if err != nil {
		return nil, err
	}
	return h.startRedis(ctx, bin)
}

func installedRedis() (redisBinary, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		path, err := exec.LookPath(name)
		for _, dir := range []string{"/usr/local/bin", "/opt/homebrew/bin"} {
			if err != nil && executable(filepath.Join(dir, name)) {
				path, err = filepath.Join(dir, name), nil
			}
		}
		if err == nil {
			return redisBinary{path: path, origin: path}, nil
		}
	}
	return redisBinary{}, errors.New("none installed")
}

// redisConfig is read by the server from its standard input, because other users can read a command line, and the
// password with it. Nothing is saved in dev mode either: Redis carries wake-ups only, every job is a row in Postgres,
// and the sweep sends again what a lost Redis forgot.
const redisConfig = `bind 127.0.0.1
port %d
requirepass %s
dir "%s"
save ""
appendonly %s
daemonize no
logfile ""
`

// startRedis runs the server on a free port and waits until it answers.
func (h *host) startRedis(ctx context.Context, bin redisBinary) (*server, error) {
	ctx, cancel := context.WithTimeout(ctx, readyLimit)
	defer cancel()
	out, err := output(ctx, bin.command("--version"))
	if err != nil {
		return nil, err
	}
	dir, lock, err := h.scratch(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Close() // the server has its own copy by then
	for try := 1; ; try++ {
		port, err := freePort()
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		password := secret()
		p, err := tryRedis(ctx, redisData{bin: bin, dir: dir, lock: lock, port: port, password: password})
		if err != nil {
			if errors.Is(err, errExited) && taken(port) && try < portTries {
				continue // somebody else was faster
			}
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		quiet := p.watch(func() {
			h.notify("redis: the private server ended on its own: " + fatalLine(filepath.Join(dir, logName)))
		})
		return &server{
			url:  redisURL(port, password),
			line: fmt.Sprintf("redis %s: %s, private on 127.0.0.1:%d", versionNumber.FindString(out), bin.origin, port),
			stop: func(ctx context.Context) error {
				quiet()
				return errors.Join(p.stop(ctx, syscall.SIGTERM), os.RemoveAll(dir))
			},
		}, nil
	}
}

func redisURL(port int, password string) string {
	return fmt.Sprintf("redis://:%s@127.0.0.1:%d/0", password, port)
}

// redisData is a folder about to be served.
type redisData struct {
	bin      redisBinary
	dir      string   // has the log
	lock     *os.File // handed to the server; may be nil
	port     int
	password string
	kept     bool // what it is told outlives a restart
}

// tryRedis starts the server on one port. Its error is errExited if the server gave up.
func tryRedis(ctx context.Context, d redisData) (*process, error) {
	logPath := filepath.Join(d.dir, logName)
	log, err := os.OpenFile(logPath, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	config, feed, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer config.Close()
	appendOnly := "no"
	if d.kept {
		appendOnly = "yes"
	}
	_, err = fmt.Fprintf(feed, redisConfig, d.port, d.password, d.dir, appendOnly) // far less than a pipe holds, so it can't block
	if err := errors.Join(err, feed.Close()); err != nil {
		return nil, err
	}
	cmd := d.bin.command("-")
	cmd.Dir = d.dir
	cmd.Stdin, cmd.Stdout, cmd.Stderr = config, log, log
	if d.lock != nil {
		cmd.ExtraFiles = []*os.File{d.lock}
	}
	p, err := spawn(cmd, syscall.SIGTERM)
	if err != nil {
		return nil, err
	}
	err = eventually(ctx, 5*time.Millisecond, func() (bool, error) {
		if p.gone() {
			return false, fmt.Errorf("%s %w: %s", filepath.Base(d.bin.path), errExited, fatalLine(logPath))
		}
		return pong(d.port, d.password), nil
	})
	if err != nil {
		ended, cancel := context.WithCancel(context.WithoutCancel(ctx))
		cancel()
		return nil, errors.Join(err, p.stop(ended, syscall.SIGKILL))
	}
	return p, nil
}

// pong tells whether a Redis with this password answers on the port. The password is random, so it is ours.
func pong(port int, password string) bool {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	if _, err := fmt.Fprintf(conn, "*2\r\n$4\r\nAUTH\r\n$%d\r\n%s\r\n*1\r\n$4\r\nPING\r\n", len(password), password); err != nil {
		return false
	}
	r := bufio.NewReader(conn)
	for _, want := range []string{"+OK", "+PONG"} {
		line, err := r.ReadString('\n')
		if err != nil || strings.TrimSpace(line) != want {
			return false
		}
	}
	return true
}

// miniRedis is the last resort: an imitation in this process. Its clock stands still unless it is moved.
func (h *host) miniRedis(context.Context) (*server, error) {
	m := miniredis.NewMiniRedis()
	password := secret()
	m.RequireAuth(password)
	if err := m.StartAddr("127.0.0.1:0"); err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(m.Port())
	if err != nil {
		m.Close()
		return nil, err
	}
	stopped, ended := make(chan struct{}), make(chan struct{})
	go func() { // ends with stop
		defer close(ended)
		const step = 50 * time.Millisecond
		tick := time.NewTicker(step)
		defer tick.Stop()
		last := time.Now()
		for {
			select {
			case <-stopped:
				return
			case now := <-tick.C:
				m.FastForward(now.Sub(last)) // ticks can be late or lost
				last = now
			}
		}
	}()
	return &server{
		url:  redisURL(port, password),
		line: fmt.Sprintf("redis: miniredis in this process, on 127.0.0.1:%d", port),
		stop: func(context.Context) error {
			close(stopped)
			<-ended
			m.Close()
			return nil
		},
	}, nil
}
