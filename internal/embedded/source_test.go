package embedded

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// With the real apt-get and mirror; the tree is kept in the shared .run, so only the first run fetches.
func TestUnpackedPackagesServe(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("no apt-get here")
	}
	s := start(t, Options{Ephemeral: true, without: []string{"machine", "docker", "download", "miniredis"}})
	query(t, s.DatabaseURL, "SELECT 'ok'")
	if err := redisClient(t, s.RedisURL).Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
	for _, line := range s.Chosen {
		if !strings.Contains(line, "packages/") {
			t.Errorf("not the unpacked one: %s", line)
		}
	}
}

func TestMiniredisExpiresKeysAndNeedsThePassword(t *testing.T) {
	t.Parallel()
	s := start(t, Options{Dir: t.TempDir(), DatabaseURL: given, without: []string{"machine", "apt", "docker"}})
	client := redisClient(t, s.RedisURL)
	if err := client.Set(t.Context(), "short", "v", 150*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "expired", func() bool {
		return errors.Is(client.Get(t.Context(), "short").Err(), redis.Nil)
	})
	if !strings.Contains(s.Chosen[1], "miniredis") || !strings.Contains(s.Chosen[1], "machine: left out") {
		t.Errorf("the line doesn't say what and why: %s", s.Chosen[1])
	}
}

// script writes an executable shell script.
func script(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// fakeApt puts an apt on PATH that knows its packages only from private lists, and logs what it is asked.
func fakeApt(t *testing.T) (log string) {
	t.Helper()
	bin := t.TempDir()
	log = filepath.Join(bin, "log")
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	t.Setenv("FAKE_LOG", log)
	script(t, bin, "apt-cache", `config=$3; shift 3
lists=$(sed -n 's/^Dir::State "\(.*\)";$/\1/p' "$config")/lists
if [ -e "$lists/fresh" ]; then echo "  Candidate: 5:7.0"; else echo "  Candidate: (none)"; fi
`)
	script(t, bin, "apt-get", `config=$3; shift 3
echo "apt-get $*" >> "$FAKE_LOG"
case $1 in
update) touch "$(sed -n 's/^Dir::State "\(.*\)";$/\1/p' "$config")/lists/fresh" ;;
--simulate)
	echo "Inst redis-server (5:7.0 Debian [amd64])"
	echo "Inst libjemalloc2 (5.3 Debian [amd64])"
	echo "Inst libc6 [2.36-8] (2.36-9 Debian [amd64])"
	echo "Inst libllvm14 (14 Debian [amd64])"
	echo "Inst libjson-perl (4 Debian [all])"
	echo "Inst adduser (3 Debian [all])"
	echo "Conf redis-server (5:7.0 Debian [amd64])" ;;
download) shift; for p; do touch "${p}_1_amd64.deb"; done ;;
esac
`)
	script(t, bin, "dpkg", `mkdir -p "$3/usr/bin" "$3/usr/lib/x86_64-linux-gnu"
printf '#!/bin/sh\necho 7.0\n' > "$3/usr/bin/redis-server"; chmod 755 "$3/usr/bin/redis-server"
`)
	return log
}

func TestAptFallsBackToPrivateListsAndFetchesOnce(t *testing.T) { // not parallel: PATH
	log := fakeApt(t)
	dir := t.TempDir()
	var g sync.WaitGroup
	for range 3 {
		g.Go(func() {
			h := &host{notify: func(string) {}}
			if err := h.settle(t.Context(), dir); err != nil {
				t.Error(err)
				return
			}
			err := h.unpack(t.Context(), "redis", redisPackages, func(_ context.Context, root string) error {
				if !executable(filepath.Join(root, "usr/bin/redis-server")) {
					return errors.New("no server")
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSpace(string(text)), "\n")
	want := []string{
		"apt-get update",
		"apt-get --simulate --no-install-recommends install redis-server redis-tools",
		"apt-get download redis-server redis-tools libjemalloc2",
	}
	if !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	left, err := filepath.Glob(filepath.Join(dir, "packages/*/new-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

func TestBrokenFetchIsNotKept(t *testing.T) { // not parallel: PATH
	fakeApt(t)
	h := &host{base: t.TempDir(), notify: func(string) {}}
	refuse := func(context.Context, string) error { return errors.New("it doesn't run") }
	if err := h.unpack(t.Context(), "redis", redisPackages, refuse); err == nil || !strings.Contains(err.Error(), "it doesn't run") {
		t.Errorf("got %v", err)
	}
	trees, err := filepath.Glob(filepath.Join(h.base, "packages/*/redis"))
	if err != nil || len(trees) > 0 {
		t.Errorf("kept %q, %v", trees, err)
	}
}

func TestDockerWithoutEngineIsSkippedQuickly(t *testing.T) { // not parallel: PATH
	bin := t.TempDir()
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	for text, want := range map[string]string{
		"echo 'Cannot connect to the Docker daemon' >&2; exit 1": "Cannot connect",
		"echo; exit 0":  "no engine",
		"exec sleep 60": "no answer",
	} {
		script(t, bin, "docker", text+"\n")
		began := time.Now()
		if err := dockerAnswers(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v", text, err)
		}
		if took := time.Since(began); took > dockerProbe+2*time.Second {
			t.Errorf("%s: took %s", text, took)
		}
	}
}

func TestDockerRunsAttachedAndEndsAtStop(t *testing.T) { // not parallel: PATH
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	t.Setenv("FAKE_PORT", filepath.Join(bin, "port"))
	t.Setenv("FAKE_LOG", filepath.Join(bin, "log"))
	script(t, bin, "docker", `echo "$*" >> "$FAKE_LOG"
case "$1 $*" in
info*) echo 28.0 ;;
run*`+redisImage+`*) exec env `+helperEnv+`=redis `+self+` ;;
run*`+postgresImage+`*) exec env `+helperEnv+`=postgres `+self+` ;;
port*) cat "$FAKE_PORT" ;;
esac
`)
	without := []string{"machine", "apt", "download", "miniredis"}
	s := start(t, Options{Dir: t.TempDir(), DatabaseURL: given, without: without})
	if err := redisClient(t, s.RedisURL).Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
	stop(t, s)
	if redisAnswers(t, s.RedisURL) {
		t.Error("the container still runs")
	}
	dir := t.TempDir()
	var urls []string
	for range 2 {
		s := start(t, Options{Dir: dir, RedisURL: given, without: without})
		urls = append(urls, s.DatabaseURL[:strings.Index(s.DatabaseURL, "@")])
		stop(t, s)
	}
	if urls[0] != urls[1] {
		t.Error("the second start has another password than the volume")
	}
	log, err := os.ReadFile(filepath.Join(bin, "log"))
	if err != nil {
		t.Fatal(err)
	}
	if password := urls[0][strings.LastIndex(urls[0], ":")+1:]; strings.Contains(string(log), password) {
		t.Error("the password is on the command line")
	}
}

// jar is what Maven Central serves: a zip with a tar in it, here of scripts that call this machine's Postgres.
func jar(t *testing.T) []byte {
	t.Helper()
	installed := postgresFolders()
	if len(installed) == 0 {
		t.Skip("needs an installed Postgres to imitate one")
	}
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("needs xz")
	}
	tree := t.TempDir()
	if err := os.MkdirAll(filepath.Join(tree, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgres", "initdb", "pg_ctl"} {
		script(t, filepath.Join(tree, "bin"), name, fmt.Sprintf("exec %q \"$@\"\n", filepath.Join(installed[0], name)))
	}
	archive := filepath.Join(t.TempDir(), "postgres.txz")
	if out, err := exec.Command("tar", "-C", tree, "-cJf", archive, "bin").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	f, err := z.Create("postgres-linux.txz")
	if err == nil {
		_, err = f.Write(text)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDownloadedPostgresServes(t *testing.T) {
	t.Parallel()
	archive := jar(t)
	var asked []string
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		if strings.HasSuffix(r.URL.Path, ".sha256") {
			fmt.Fprintf(w, "%x", sha256.Sum256(archive))
			return
		}
		_, _ = w.Write(archive)
	}))
	defer repository.Close()
	o := Options{
		Dir: folder(t), RedisURL: given, without: []string{"machine", "apt", "docker"}, maven: repository.URL + "/maven2",
	}
	for range 2 {
		s := start(t, o)
		query(t, s.DatabaseURL, "SELECT 'ok'")
		stop(t, s)
	}
	if len(asked) != 2 || !strings.HasPrefix(asked[0], "/maven2/io/zonky/") {
		t.Errorf("asked for %q, want the archive and its checksum once", asked)
	}
}

func TestDownloadSaysWhatWentWrong(t *testing.T) {
	t.Parallel()
	repository := httptest.NewServer(http.NotFoundHandler())
	address := repository.URL
	repository.Close()
	_, err := Start(t.Context(), Options{
		Dir: t.TempDir(), RedisURL: given, without: []string{"machine", "apt", "docker"}, maven: address,
	})
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
}

func TestDownloadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	hung := make(chan struct{})
	repository := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(hung)
		<-r.Context().Done()
	}))
	defer repository.Close()
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	var g sync.WaitGroup
	defer g.Wait()
	g.Go(func() {
		<-hung
		cancel(cause)
	})
	_, err := Start(ctx, Options{
		Dir: t.TempDir(), RedisURL: given, without: []string{"machine", "apt", "docker"}, maven: repository.URL,
	})
	if !errors.Is(err, cause) {
		t.Errorf("got %v", err)
	}
}
