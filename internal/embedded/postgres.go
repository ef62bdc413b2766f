package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// postgresSources are the ways to a Postgres, best first.
func (h *host) postgresSources() []source {
	return []source{
		{"machine", h.machinePostgres},
		{"apt", h.aptPostgres},
		{"docker", h.dockerPostgres},
		{"download", h.downloadedPostgres},
	}
}

// binaries is an installation of Postgres that runs on this machine.
type binaries struct {
	dir       string   // with postgres and initdb in it
	libraries []string // where the loader must look for shared libraries, besides its own places
	origin    string   // for the chosen line
	version   string   // such as 15.18
	major     int
}

// oldestMajor is the oldest Postgres that its own project still maintains.
const oldestMajor = 14

// machinePostgres runs the newest Postgres that is installed.
func (h *host) machinePostgres(ctx context.Context) (*server, error) {
	bin, err := h.installed(ctx)
	if err != nil {
		return nil, err
	}
	return h.startPostgres(ctx, bin)
}

// installed finds the newest Postgres that is installed and runs.
func (h *host) installed(ctx context.Context) (binaries, error) {
	var found []binaries
	var reasons []error
	for _, dir := range postgresFolders() {
		bin, err := h.inspect(ctx, dir, nil)
		if err != nil {
			reasons = append(reasons, err)
			continue
		}
		bin.origin = dir
		found = append(found, bin)
	}
	if len(found) == 0 {
		return binaries{}, cmp.Or(errors.Join(reasons...), errors.New("none installed"))
	}
	// Stable, so that what is on PATH wins over its equals.
	slices.SortStableFunc(found, func(a, b binaries) int { return b.major - a.major })
	return found[0], nil
}

// postgresFolders lists the folders with a server on this machine: PATH first, then where Debian, Red Hat, Homebrew
// and the sources put it.
func postgresFolders() []string {
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(path))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql@*/bin", "/usr/local/opt/postgresql@*/bin",
	} {
		more, _ := filepath.Glob(pattern) // the patterns are valid
		dirs = append(dirs, more...)
	}
	var out []string
	for _, dir := range dirs {
		if slices.Contains(out, dir) || !executable(filepath.Join(dir, "postgres")) ||
			!executable(filepath.Join(dir, "initdb")) {
			continue
		}
		out = append(out, dir)
	}
	return out
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

var versionNumber = regexp.MustCompile(`\d+(\.\d+)*`)

// inspect asks the server in dir for its version, as the account that will run it. The answer proves that the
// account may execute it and that all its shared libraries are there.
func (h *host) inspect(ctx context.Context, dir string, libraries []string) (binaries, error) {
	bin := binaries{dir: dir, libraries: libraries, origin: shown(dir)}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	text, err := output(ctx, h.tool(bin, "postgres", "--version"))
	if err != nil {
		return bin, err
	}
	bin.version = versionNumber.FindString(text)
	major, _, _ := strings.Cut(bin.version, ".")
	if bin.major, err = strconv.Atoi(major); err != nil {
		return bin, fmt.Errorf("%s: unknown version %.40q", dir, text)
	}
	if bin.major < oldestMajor {
		return bin, fmt.Errorf("%s: version %s is older than %d", dir, bin.version, oldestMajor)
	}
	return bin, nil
}

// tool is a command of the installation, run as the account. Its environment is made from nothing: PGDATA, LANG and
// their like must not change what a private server does.
func (h *host) tool(bin binaries, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin.dir, name), args...)
	cmd.Env = serverEnv(bin.libraries)
	cmd.Dir = "/"
	cmd.SysProcAttr = h.as.attr()
	return cmd
}

// serverEnv is the environment of a private server.
func serverEnv(libraries []string) []string {
	env := []string{"PATH=" + cmp.Or(os.Getenv("PATH"), "/usr/bin:/bin"), "LC_ALL=C", "TZ=UTC"}
	if len(libraries) > 0 {
		env = append(env, "LD_LIBRARY_PATH="+strings.Join(libraries, ":"))
	}
	return env
}
