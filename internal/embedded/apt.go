package embedded

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// aptLimit bounds one service's fetch; on a usual line it takes five seconds, fifteen with new package lists.
const aptLimit = 90 * time.Second

// aptPostgres runs the server of the distribution's own package.
func (h *host) aptPostgres(ctx context.Context) (*server, error) {
	bin, err := h.packaged(ctx)
	if err != nil {
		return nil, err
	}
	return h.startPostgres(ctx, bin)
}

// packaged fetches the distribution's own package, unless an earlier start did, and finds its Postgres.
func (h *host) packaged(ctx context.Context) (bin binaries, err error) {
	err = h.unpack(ctx, "postgresql", postgresPackages, func(ctx context.Context, root string) error {
		found, _ := filepath.Glob(filepath.Join(root, "usr/lib/postgresql/*/bin")) // the pattern is valid
		if len(found) != 1 {
			return errors.New("no postgres in the package")
		}
		var err error
		bin, err = h.inspect(ctx, found[0], librariesIn(root))
		return err
	})
	return bin, err
}

// aptRedis runs the server of the distribution's own package.
func (h *host) aptRedis(ctx context.Context) (*server, error) {
	bin, err := h.unpackedRedis(ctx)
	if err != nil {
		return nil, err
	}
	return h.startRedis(ctx, bin)
}

func (h *host) unpackedRedis(ctx context.Context) (bin redisBinary, err error) {
	err = h.unpack(ctx, "redis", redisPackages, func(ctx context.Context, root string) error {
		for _, name := range []string{"redis-server", "valkey-server"} {
			path := filepath.Join(root, "usr/bin", name)
			if executable(path) {
				bin = redisBinary{path: path, libraries: librariesIn(root), origin: shown(path)}
				_, err := output(ctx, bin.command("--version"))
				return err
			}
		}
		return errors.New("no redis-server in the package")
	})
	return bin, err
}

// librariesIn lists the folders with shared libraries in an unpacked tree.
func librariesIn(root string) []string {
	var dirs []string
	for _, pattern := range []string{"usr/lib/*-linux-*", "lib/*-linux-*"} {
		more, _ := filepath.Glob(filepath.Join(root, pattern)) // the patterns are valid
		dirs = append(dirs, more...)
	}
	return dirs
}

// unpack calls use on the tree of a service's packages, which is fetched unless an earlier start did. A tree counts
// only if use accepts it, so a fetch that went wrong, or libraries that an upgrade of the machine took away, end in
// a new fetch and not in an error for ever.
func (h *host) unpack(ctx context.Context, name string, packages lookup, use func(context.Context, string) error) error {
	for _, tool := range []string{"apt-get", "apt-cache", "dpkg"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("no %s here", tool)
		}
	}
	dir := filepath.Join(h.base, "packages", release()+"-"+runtime.GOARCH)
	tree := filepath.Join(dir, name)
	if use(ctx, tree) == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755)); err != nil {
		return err
	}
	lock, err := waitLock(ctx, filepath.Join(dir, lockName)) // one fetch at a time: they share lists
	if err != nil {
		return err
	}
	defer lock.Close()
	if use(ctx, tree) == nil {
		return nil // fetched while we waited
	}
	if h.mirrorHangs {
		return errors.New("the mirror doesn't answer")
	}
	h.notify(name + ": fetching the distribution's package into " + shown(tree) + " (nothing gets installed)")
	ctx, cancel := context.WithTimeoutCause(ctx, aptLimit, fmt.Errorf("no package after %s", aptLimit))
	defer cancel()

	work, err := workFolder(dir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	root := filepath.Join(work, "root")
	if err := errors.Join(os.Chmod(work, 0o755), os.Mkdir(root, 0o755), os.Chmod(root, 0o755)); err != nil {
		return err
	}
	if err := fetch(ctx, dir, work, root, packages); err != nil {
		h.mirrorHangs = errors.Is(ctx.Err(), context.DeadlineExceeded)
		return err
	}
	if err := use(ctx, root); err != nil {
		return fmt.Errorf("unpacked, but: %w", err)
	}
	if err := errors.Join(os.RemoveAll(tree), os.Rename(root, tree)); err != nil {
		return err
	}
	return use(ctx, tree)
}

// release names the distribution, as a part of a path.
func release() string {
	f, err := os.Open("/etc/os-release")
	if err != nil {
		return "unknown"
	}
	defer f.Close()
	values := map[string]string{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), "=")
		values[key] = strings.Trim(value, `"'`)
	}
	name := values["ID"] + "-" + values["VERSION_ID"]
	if strings.ContainsAny(name, "/ ") {
		return "unknown"
	}
	return name
}

// fetch downloads packages and unpacks them into root. It asks the machine's own package lists first. A fresh
// container has none, and old ones point at files that are gone from the mirror: then it gets lists of its own,
// which needs no root.
func fetch(ctx context.Context, dir, work, root string, packages lookup) error {
	own := aptGet{dir: filepath.Join(dir, "apt")}
	var reasons []error
	for _, private := range []bool{false, true} {
		own.private = private
		err := own.configure()
		if err != nil {
			return err
		}
		var updated error
		if private { // one broken source of several fails the update, but need not be ours
			_, updated = own.run(ctx, work, "apt-get", "update")
		}
		if err = own.download(ctx, work, root, packages); err == nil {
			return os.RemoveAll(filepath.Join(own.dir, "cache")) // 50 MB, made anew in a second
		}
		reasons = append(reasons, updated, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(reasons...)
}

// aptGet runs apt with a configuration that keeps it away from the system's folders.
type aptGet struct {
	dir     string
	private bool // use package lists of our own
}

// configure writes apt.conf. Given with -c it is read after the system's files and so can undo their hooks: a
// container's clean-up hook, say, would empty the system's cache after our update.
func (a aptGet) configure() error {
	for _, sub := range []string{"cache/archives/partial", "state/lists/partial", "log"} {
		if err := os.MkdirAll(filepath.Join(a.dir, sub), 0o755); err != nil {
			return err
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Dir::Cache %q;\n", filepath.Join(a.dir, "cache"))
	fmt.Fprintf(&b, "Dir::Log %q;\n", filepath.Join(a.dir, "log"))
	if a.private {
		fmt.Fprintf(&b, "Dir::State %q;\n", filepath.Join(a.dir, "state"))
	}
	b.WriteString(`Dir::State::status "/var/lib/dpkg/status";
APT::Sandbox::User "root"; // as root: _apt couldn't write into our folders
APT::Get::Show-User-Simulation-Note "false";
Debug::NoLocking "true"; // we hold a lock of our own
Acquire::Languages "none";
Acquire::GzipIndexes "true"; // a quarter of the space
Acquire::Retries "1";
Acquire::http::Timeout "10";
Acquire::https::Timeout "10";
APT::Update::Error-Mode "any"; // or a missing network is a warning
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
`)
	return os.WriteFile(a.config(), []byte(b.String()), 0o644)
}

func (a aptGet) config() string { return filepath.Join(a.dir, "apt.conf") }

// run runs apt-get or apt-cache in the folder work. Unlike servers they get the whole environment: it has the proxy.
func (a aptGet) run(ctx context.Context, work, tool string, args ...string) (string, error) {
	cmd := exec.Command(tool, append([]string{"-q", "-c", a.config()}, args...)...)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return output(ctx, cmd)
}

// download gets the packages that have the server, and of those that an installation would bring along the shared
// libraries.
func (a aptGet) download(ctx context.Context, work, root string, packages lookup) error {
	servers, err := packages(ctx, a, work)
	if err != nil {
		return err
	}
	plan, err := a.run(ctx, work, "apt-get", append([]string{"--simulate", "--no-install-recommends", "install"}, servers...)...)
	if err != nil {
		return err
	}
	wanted := servers
	for line := range strings.Lines(plan) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "Inst" && needed(fields[1]) &&
			!slices.Contains(wanted, fields[1]) {
			wanted = append(wanted, fields[1])
		}
	}
	if _, err := a.run(ctx, work, "apt-get", append([]string{"download"}, wanted...)...); err != nil {
		return err
	}
	archives, _ := filepath.Glob(filepath.Join(work, "*.deb")) // the pattern is valid
	for _, archive := range archives {
		if _, err := output(ctx, exec.Command("dpkg", "-x", archive, root)); err != nil {
			return err
		}
		if err := os.Remove(archive); err != nil {
			return err
		}
	}
	return nil
}

// needed tells which dependencies are worth their bytes. LLVM is for jit, which is off; Perl is for Debian's cluster
// scripts; another C library than the loader's own would crash.
func needed(name string) bool {
	return strings.HasPrefix(name, "lib") && !strings.HasPrefix(name, "libllvm") && !strings.Contains(name, "perl") &&
		!strings.HasPrefix(name, "libc6") && !strings.HasPrefix(name, "libc-")
}

// lookup finds the packages that have a server, by the package lists at hand.
type lookup func(ctx context.Context, a aptGet, work string) ([]string, error)

var (
	postgresDepends = regexp.MustCompile(`(?m)^\s*\|?Depends: (postgresql-[0-9]+)$`)
	hasCandidate    = regexp.MustCompile(`(?m)^\s*Candidate: [^(\s]`)
)

// postgresPackages follows "postgresql", which has nothing in it, to the version of this release.
func postgresPackages(ctx context.Context, a aptGet, work string) ([]string, error) {
	out, err := a.run(ctx, work, "apt-cache", "depends", "postgresql")
	if err != nil {
		return nil, err
	}
	m := postgresDepends.FindStringSubmatch(out)
	if m == nil {
		return nil, errors.New("apt-cache: no postgresql in the package lists")
	}
	return m[1:2], nil
}

// redisPackages names both halves: Debian's redis-server is a link to a file in redis-tools.
func redisPackages(ctx context.Context, a aptGet, work string) ([]string, error) {
	for _, name := range []string{"redis", "valkey"} {
		out, err := a.run(ctx, work, "apt-cache", "policy", name+"-server")
		if err != nil {
			return nil, err
		}
		if hasCandidate.MatchString(out) {
			return []string{name + "-server", name + "-tools"}, nil
		}
	}
	return nil, errors.New("apt-cache: no redis-server in the package lists")
}
