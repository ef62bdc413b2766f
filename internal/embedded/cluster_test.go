package embedded

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestKilledPostgresDoesNotBlockTheNextStart(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var notices []string
	o := Options{Dir: seeded(t), RedisURL: given, Notify: func(line string) {
		mu.Lock()
		defer mu.Unlock()
		notices = append(notices, line)
	}}
	s := start(t, o)
	query(t, s.DatabaseURL, "CREATE TABLE kept ()")
	data := query(t, s.DatabaseURL, "SHOW data_directory")
	if err := syscall.Kill(postmaster(t, data), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "told that the server ended", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return strings.Contains(strings.Join(notices, "\n"), "ended on its own")
	})
	stop(t, s)
	if pidFile(data) == nil {
		t.Error("a killed server should leave its postmaster.pid; this test proves nothing")
	}
	again := start(t, Options{Dir: o.Dir, RedisURL: given})
	query(t, again.DatabaseURL, "SELECT 1::text FROM kept")
}

// A machine that lost its power leaves a postmaster.pid whose number belongs to any program after the restart.
func TestStalePidFileOfAnotherProgramDoesNotBlock(t *testing.T) {
	t.Parallel()
	o := Options{Dir: seeded(t), RedisURL: given}
	s := start(t, o)
	data := query(t, s.DatabaseURL, "SHOW data_directory")
	genuine, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	stop(t, s)
	other := exec.Command("sleep", "60")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}()
	_, rest, _ := strings.Cut(string(genuine), "\n")
	for name, text := range map[string]string{
		"another program's": fmt.Sprintf("%d\n%s", other.Process.Pid, rest),
		"empty":             "",
		"nonsense":          "not a number\n",
	} {
		if err := os.WriteFile(filepath.Join(data, "postmaster.pid"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		again, err := Start(t.Context(), o)
		if err != nil {
			t.Errorf("%s postmaster.pid: %v", name, err)
			continue
		}
		query(t, again.DatabaseURL, "SELECT 'ok'")
		stop(t, again)
	}
	if !alive(other.Process.Pid) {
		t.Error("the other program was killed")
	}
}

func TestServerStartedByHandIsLeftAlone(t *testing.T) {
	t.Parallel()
	o := Options{Dir: seeded(t), RedisURL: given}
	s := start(t, o)
	data := query(t, s.DatabaseURL, "SHOW data_directory")
	stop(t, s)
	byHand := exec.Command("sleep", "60") // a postmaster's working folder is its data folder
	byHand.Dir = data
	if err := byHand.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = byHand.Process.Kill()
		_ = byHand.Wait()
	}()
	pid := strconv.Itoa(byHand.Process.Pid)
	if err := os.WriteFile(filepath.Join(data, "postmaster.pid"), []byte(pid+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), o); err == nil || !strings.Contains(err.Error(), "by hand (pid "+pid+")") {
		t.Errorf("got %v", err)
	}
	if pidFile(data) == nil {
		t.Error("its postmaster.pid is gone")
	}
}

func TestKilledParentLeavesNothingRunning(t *testing.T) {
	t.Parallel()
	for _, ephemeral := range []bool{false, true} {
		t.Run(fmt.Sprintf("ephemeral=%t", ephemeral), func(t *testing.T) {
			t.Parallel()
			self, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			dir := seeded(t)
			shareRedis(t, dir)
			h := startHelper(t, self, order{Dir: dir, Ephemeral: ephemeral}, nil)
			query(t, h.DatabaseURL, "CREATE TABLE kept ()")
			left := descendants(t, h.cmd.Process.Pid)
			if len(left) < 5 { // a redis-server, a postmaster and its helpers
				t.Fatalf("only %d processes under the helper: %s", len(left), h.Chosen)
			}
			for _, pid := range left {
				if group, err := syscall.Getpgid(pid); err == nil && group == syscall.Getpgrp() {
					t.Errorf("process %d is in our group: Ctrl-C would reach it", pid)
				}
			}
			if err := h.cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = h.cmd.Wait() // killed, as intended
			if !ephemeral {  // at once, while the server may still be on its way out
				again := start(t, Options{Dir: dir, RedisURL: given})
				query(t, again.DatabaseURL, "SELECT 1::text FROM kept")
			}
			within(t, 10*time.Second, "all gone", func() bool {
				for _, pid := range left {
					if alive(pid) {
						return false
					}
				}
				return true
			})
		})
	}
}

// shareRedis lends dir the redis-server that was unpacked for all tests, so that not every test fetches one.
func shareRedis(t *testing.T, dir string) {
	t.Helper()
	start(t, Options{DatabaseURL: given, Ephemeral: true}) // fetches it, if nobody did
	shared, err := runDir("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(shared, "packages")); err != nil {
		return // this machine has a redis-server of its own
	}
	if err := os.Symlink(filepath.Join(shared, "packages"), filepath.Join(dir, "packages")); err != nil {
		t.Fatal(err)
	}
}

// Runs all as a user without rights, in a folder of that user's, with an empty environment.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root: the other tests run as an ordinary user")
	}
	dir, self := userFolder(t)
	for _, ephemeral := range []bool{false, true} {
		o := order{Ephemeral: ephemeral, Without: []string{"apt", "docker"}} // Dir: .run where it is
		h := startHelper(t, self, o, func(cmd *exec.Cmd) {
			cmd.Dir = dir
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
		})
		if got := query(t, h.DatabaseURL, "SELECT 'ok'"); got != "ok" {
			t.Errorf("got %q", got)
		}
		if err := redisClient(t, h.RedisURL).Ping(t.Context()).Err(); err != nil {
			t.Error(err)
		}
		if strings.Contains(h.Chosen[0], "namespace") || strings.Contains(h.Chosen[0], "as nobody") {
			t.Errorf("an ordinary user needs no tricks: %s", h.Chosen[0])
		}
		if !ephemeral && !strings.Contains(h.Chosen[0], "data in .run/postgres-") {
			t.Errorf("data isn't below the working folder: %s", h.Chosen[0])
		}
		if err := h.hold.Close(); err != nil {
			t.Error(err)
		}
		if err := h.cmd.Wait(); err != nil {
			t.Errorf("helper: %v", err)
		}
	}
}

// userFolder makes a folder that belongs to nobody, with a copy of the test binary in it: the original is in a
// folder that only we can enter.
func userFolder(t *testing.T) (dir, binary string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "embedded-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	binary = filepath.Join(dir, "embedded.test")
	// Not copied by this process: a child that another test forks meanwhile would keep it open for writing, and a
	// program that is being written can't be run.
	if out, err := exec.Command("cp", self, binary).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Chown(dir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	return dir, binary
}

// In a plain Docker container root can't make user namespaces, and a checkout in /root can't be entered by nobody.
func TestRootWithoutNamespacesInAClosedHome(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	closed := folder(t)
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: filepath.Join(closed, "run"), RedisURL: given, without: []string{"namespace"}}
	h := &host{without: o.without}
	if err := h.settle(t.Context(), o.Dir); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(h.base, "/var/tmp/batchwright-0-") {
		t.Fatalf("base is %s", h.base)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(h.base); err != nil {
			t.Error(err)
		}
	})
	for _, ephemeral := range []bool{false, true} {
		o.Ephemeral = ephemeral
		s := start(t, o)
		data := query(t, s.DatabaseURL, "SHOW data_directory")
		info, err := os.Stat(data)
		if err != nil {
			t.Fatal(err)
		}
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != nobody || info.Mode().Perm() != 0o700 {
			t.Errorf("%s belongs to %d and has mode %s", data, uid, info.Mode())
		}
		stop(t, s)
	}
}

// A checkout that is used with sudo and without must not fail on the other user's data.
func TestAnotherUsersDataIsLeftAlone(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	o := Options{Dir: seeded(t), RedisURL: given}
	s := start(t, o)
	data := query(t, s.DatabaseURL, "SHOW data_directory")
	stop(t, s)
	if err := os.Chown(data, 4321, 4321); err != nil {
		t.Fatal(err)
	}
	again := start(t, o)
	if got := query(t, again.DatabaseURL, "SHOW data_directory"); got == data || !strings.Contains(got, "-uid0/") {
		t.Errorf("data is in %s", got)
	}
}

func TestPortRaceIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Ephemeral: true, RedisURL: given})
	u, err := url.Parse(s.DatabaseURL)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		t.Fatal(err)
	}
	if !taken(port) {
		t.Error("a port in use counts as free, so a lost race would end the start")
	}
	if free, err := freePort(); err != nil || taken(free) {
		t.Errorf("port %d, %v", free, err)
	}
}
