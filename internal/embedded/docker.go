package embedded

import (
	"bytes"
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
)

const (
	postgresImage = "postgres:17"
	redisImage    = "redis:7"

	dockerProbe = 3 * time.Second
	dockerPull  = 3 * time.Minute
)

// dockerPostgres runs the official image. Lasting data lives in a volume of this checkout, because in a folder it
// would belong to the image's user, and this user couldn't remove it.
func (h *host) dockerPostgres(ctx context.Context) (*server, error) {
	if err := dockerAnswers(ctx); err != nil {
		return nil, err
	}
	c := container{
		image: postgresImage, port: 5432, password: secret(),
		ready: func(port int, _ string) bool { return speaksPostgres(port) },
		args:  []string{"--env", "POSTGRES_USER=" + superuser, "--env", "POSTGRES_PASSWORD", "--env", "POSTGRES_DB=postgres"},
	}
	options := fleeting
	note := ", throw-away data"
	if !h.ephemeral {
		dir := filepath.Join(h.base, "postgres-docker")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		lock, err := tryLock(filepath.Join(dir, "owner"))
		if errors.Is(err, errLocked) {
			return nil, final{fmt.Errorf("another process runs the Postgres of %s: stop it, or set DATABASE_URL", shown(dir))}
		} else if err != nil {
			return nil, err
		}
		volume, password, err := dockerVolume(dir)
		if err != nil {
			return nil, errors.Join(err, lock.Close())
		}
		c.lock, c.password, note, options = lock, password, ", data in the volume "+volume, lasting
		c.args = append(c.args, "--volume", volume+":/var/lib/postgresql/data")
	}
	for _, s := range options {
		c.command = append(c.command, "-c", s)
	}
	stop, port, err := h.runContainer(ctx, c)
	if err != nil {
		return nil, err
	}
	at := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	return &server{
		url:  fmt.Sprintf("postgres://%s:%s@%s/postgres?sslmode=disable", superuser, c.password, at),
		line: fmt.Sprintf("postgres: Docker image %s, private on %s%s", postgresImage, at, note),
		stop: stop,
	}, nil
}

// dockerVolume returns the name and password of the volume that belongs to dir, the same ones at every start.
func dockerVolume(dir string) (name, password string, err error) {
	path := filepath.Join(dir, "volume")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = fmt.Fprintf(f, "batchwright-%s %s\n", strings.ToLower(secret()[:12]), secret())
		if err := errors.Join(err, f.Close()); err != nil {
			return "", "", err
		}
	} else if !errors.Is(err, os.ErrExist) {
		return "", "", err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", "", err
	}
	if _, err := fmt.Sscan(string(text), &name, &password); err != nil {
		return "", "", fmt.Errorf("%s: %w", shown(path), err)
	}
	return name, password, nil
}

// dockerRedis runs the official image.
func (h *host) dockerRedis(ctx context.Context) (*server, error) {
	if err := dockerAnswers(ctx); err != nil {
		return nil, err
	}
	c := container{
		image: redisImage, port: 6379, password: secret(), ready: pong, args: []string{"--env", "REDIS_PASSWORD"},
		command: []string{"sh", "-c", `exec redis-server --save "" --appendonly no --requirepass "$REDIS_PASSWORD"`},
	}
	stop, port, err := h.runContainer(ctx, c)
	if err != nil {
		return nil, err
	}
	return &server{
		url:  redisURL(port, c.password),
		line: fmt.Sprintf("redis: Docker image %s, private on 127.0.0.1:%d", redisImage, port),
		stop: stop,
	}, nil
}

// dockerAnswers tells whether there is an engine; a client alone is common.
func dockerAnswers(ctx context.Context) error {
	if _, err := exec.LookPath("docker"); err != nil {
		return errors.New("not installed")
	}
	ctx, cancel := context.WithTimeoutCause(ctx, dockerProbe, errors.New("no answer"))
	defer cancel()
	out, err := output(ctx, exec.Command("docker", "info", "--format", "{{.ServerVersion}}"))
	if err == nil && strings.TrimSpace(out) == "" {
		err = errors.New("docker info: no engine")
	}
	return err
}

// container is one to run.
type container struct {
	image    string
	port     int // inside
	password string
	args     []string // of docker run
	command  []string // in the container
	ready    func(port int, password string) bool
	lock     *os.File // released at the end; may be nil
}

// runContainer runs the container attached, in the foreground of its client: a signal to the client, from Stop or
// from the kernel when this process dies, is passed on to the server, and --rm removes what is left.
func (h *host) runContainer(ctx context.Context, c container) (stop func(context.Context) error, port int, err error) {
	defer func() {
		if err != nil && c.lock != nil {
			c.lock.Close()
		}
	}()
	h.notify("docker: starting " + c.image + " (a first pull takes a while)")
	ctx, cancel := context.WithTimeoutCause(ctx, dockerPull, fmt.Errorf("not ready after %s", dockerPull))
	defer cancel()
	log, err := os.CreateTemp("", "batchwright-docker-*.log")
	if err != nil {
		return nil, 0, err
	}
	defer log.Close()
	defer os.Remove(log.Name()) // the client keeps its handle
	name := "batchwright-" + strings.ToLower(secret()[:12])
	args := []string{"run", "--rm", "--name", name, "--publish", fmt.Sprintf("127.0.0.1::%d", c.port)}
	args = append(append(append(args, c.args...), c.image), c.command...)
	cmd := exec.Command("docker", args...)
	// By name only on the command line, which other users can read.
	cmd.Env = append(os.Environ(), "POSTGRES_PASSWORD="+c.password, "REDIS_PASSWORD="+c.password)
	cmd.Stdout, cmd.Stderr = log, log
	p, err := spawn(cmd, syscall.SIGINT)
	if err != nil {
		return nil, 0, err
	}
	end := func(ctx context.Context) error {
		err := p.stop(ctx, syscall.SIGINT)
		if err != nil { // the client is dead, the server perhaps not
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dockerProbe)
			defer cancel()
			_, removeErr := output(ctx, exec.Command("docker", "rm", "--force", name))
			err = errors.Join(err, removeErr)
		}
		if c.lock != nil {
			c.lock.Close()
		}
		return err
	}
	err = eventually(ctx, 100*time.Millisecond, func() (bool, error) {
		if p.gone() {
			return false, fmt.Errorf("docker run %w: %s", errExited, fatalLine(log.Name()))
		}
		if port == 0 {
			port = publishedPort(ctx, name, c.port)
		}
		return port != 0 && c.ready(port, c.password), nil
	})
	if err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		return nil, 0, errors.Join(err, end(ctx))
	}
	return end, port, nil
}

// publishedPort asks which port of 127.0.0.1 the engine chose; 0 means not yet.
func publishedPort(ctx context.Context, name string, inside int) int {
	out, err := output(ctx, exec.Command("docker", "port", name, strconv.Itoa(inside)+"/tcp"))
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(out, "\n")
	_, port, err := net.SplitHostPort(strings.TrimSpace(first))
	if err != nil {
		return 0
	}
	number, _ := strconv.Atoi(port) // 0 for what isn't a number
	return number
}

// speaksPostgres asks for TLS, the one question that a Postgres answers with a single byte before it knows who asks.
// The engine's proxy accepts connections long before the server does. The image's server listens on TCP only after
// its first-run scripts are through.
func speaksPostgres(port int) bool {
	conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	// SSLRequest: length 8, code 80877103 (PostgreSQL protocol 3.0, "Message Formats").
	if _, err := conn.Write([]byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}); err != nil {
		return false
	}
	var answer [1]byte
	_, err = conn.Read(answer[:])
	return err == nil && bytes.ContainsAny(answer[:], "NS")
}
