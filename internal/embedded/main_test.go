package embedded

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/jackc/pgx/v5"
	"github.com/redis/go-redis/v9"
	"go.uber.org/goleak"
)

// helperEnv makes the test binary another program: one that can be killed, or run as another user.
const helperEnv = "EMBEDDED_TEST_HELPER"

func TestMain(m *testing.M) {
	switch helper := os.Getenv(helperEnv); helper {
	case "":
		goleak.VerifyTestMain(m)
	case "redis", "postgres":
		fakeContainer(helper)
	default:
		holdServices(helper)
	}
}

// order tells a helper what to start.
type order struct {
	Dir       string
	Ephemeral bool
	Without   []string
}

// holdServices starts what the order says, prints the result and stops at the end of its input.
func holdServices(text string) {
	var o order
	err := json.Unmarshal([]byte(text), &o)
	if err == nil {
		var s *Services
		s, err = Start(context.Background(), Options{Dir: o.Dir, Ephemeral: o.Ephemeral, without: o.Without})
		if err == nil {
			_ = json.NewEncoder(os.Stdout).Encode(s)
			_, _ = io.Copy(io.Discard, os.Stdin)
			err = s.Stop(context.Background())
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// helper is a running helper process.
type helper struct {
	Services
	cmd  *exec.Cmd
	hold io.Closer // its input
}

// startHelper runs the test binary, at path, as a helper; change may alter the command before it starts.
func startHelper(t *testing.T, path string, o order, change func(*exec.Cmd)) *helper {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	h := &helper{cmd: exec.CommandContext(t.Context(), path)}
	// What "env -i" leaves: no LANG, no USER.
	h.cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/usr/local/go/bin:/usr/bin:/bin", helperEnv + "=" + string(text)}
	h.cmd.Stderr = os.Stderr
	if change != nil {
		change(h.cmd)
	}
	hold, err := h.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	h.hold = hold
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(out).Decode(&h.Services); err != nil {
		_ = hold.Close()
		t.Fatalf("helper: %v, %v", err, h.cmd.Wait())
	}
	return h
}

// fakeContainer is what the fake docker runs: it publishes its port in a file and ends at SIGINT, as the images do.
func fakeContainer(what string) {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGINT)
	var port string
	if what == "redis" {
		m := miniredis.NewMiniRedis()
		m.RequireAuth(os.Getenv("REDIS_PASSWORD"))
		if err := m.Start(); err != nil {
			os.Exit(1)
		}
		port = m.Port()
	} else {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			os.Exit(1)
		}
		_, port, _ = net.SplitHostPort(l.Addr().String())
		go func() {
			for {
				conn, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = io.ReadFull(conn, make([]byte, 8))
				_, _ = conn.Write([]byte("N"))
				conn.Close()
			}
		}()
	}
	if err := os.WriteFile(os.Getenv("FAKE_PORT"), []byte("127.0.0.1:"+port+"\n"), 0o600); err != nil {
		os.Exit(1)
	}
	<-stop
	_ = os.Remove(os.Getenv("FAKE_PORT"))
}

// folder makes a folder for a test's servers, in memory if there is room: what is tested isn't the disk.
func folder(t *testing.T) string {
	t.Helper()
	if !roomy("/dev/shm") {
		return t.TempDir()
	}
	dir, err := os.MkdirTemp("/dev/shm", "embedded-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// seeded makes a folder in which the data of an earlier start lies, so that not every test runs initdb.
func seeded(t *testing.T) string {
	t.Helper()
	dir := folder(t)
	h := &host{ephemeral: true, notify: func(string) {}}
	if err := h.settle(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	bin, err := h.installed(t.Context())
	if err != nil {
		return dir // then the first start fetches a server and runs initdb
	}
	template, err := h.template(t.Context(), bin)
	if err != nil {
		t.Fatal(err)
	}
	home := filepath.Join(dir, fmt.Sprintf("postgres-%d", bin.major))
	if err := os.Mkdir(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := h.copyCluster(template, filepath.Join(home, "data")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// given stands for a service that a test doesn't need.
const given = "given://nowhere.example"

// start is Start for a test, stopped at its end.
func start(t *testing.T, o Options) *Services {
	t.Helper()
	if o.Notify == nil {
		o.Notify = func(line string) { t.Log(line) }
	}
	s, err := Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, s) })
	return s
}

func stop(t *testing.T, s *Services) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Stop(ctx); err != nil {
		t.Error(err)
	}
}

// query runs one statement and returns its first column, if it has one.
func query(t *testing.T, url, sql string, args ...any) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	rows, err := conn.Query(t.Context(), sql, args...)
	if err != nil {
		t.Fatal(err)
	}
	values, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return strings.Join(values, ",")
}

// redisClient connects to the URL.
func redisClient(t *testing.T, url string) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	client := redis.NewClient(o)
	t.Cleanup(func() { client.Close() })
	return client
}

// redisAnswers tells whether the server at the URL is there. The client would try for long and log each failure.
func redisAnswers(t *testing.T, text string) bool {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	return pong(port, password)
}

// within polls until ok or the test fails.
func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := eventually(ctx, 10*time.Millisecond, func() (bool, error) { return ok(), nil }); err != nil {
		t.Fatalf("after %s: not %s", limit, what)
	}
}

// postmaster returns the process id of the server on a data folder.
func postmaster(t *testing.T, data string) int {
	t.Helper()
	lines := pidFile(data)
	if lines == nil {
		t.Fatalf("no postmaster.pid in %s", data)
	}
	pid, err := strconv.Atoi(lines[0])
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// descendants lists the processes that pid started, and those that they did.
func descendants(t *testing.T, pid int) []int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(stats) == 0 {
		t.Skip("needs /proc")
	}
	children := map[int][]int{}
	for _, path := range stats {
		child, parent, _ := processStat(path)
		children[parent] = append(children[parent], child)
	}
	var all []int
	for queue := []int{pid}; len(queue) > 0; queue = queue[1:] {
		all = append(all, children[queue[0]]...)
		queue = append(queue, children[queue[0]]...)
	}
	return all
}

// processStat reads a /proc/<pid>/stat: "pid (command) state parent ...".
func processStat(path string) (pid, parent int, state string) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, ""
	}
	_, _ = fmt.Sscan(string(text), &pid)
	_, _ = fmt.Sscan(string(text[strings.LastIndexByte(string(text), ')')+1:]), &state, &parent)
	return pid, parent, state
}

// alive tells whether a process is there, and not only its entry.
func alive(pid int) bool {
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return false
	}
	_, _, state := processStat(fmt.Sprintf("/proc/%d/stat", pid))
	return state != "" && state != "Z"
}
