package embedded

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// host is where the servers of one Start live, and as whom.
type host struct {
	base      string  // absolute; all that isn't ephemeral lies below it
	as        account // who runs Postgres
	ephemeral bool
	without   []string
	maven     string // where downloads come from; empty: Maven Central
	notify    func(string)

	mirrorHangs bool // apt ran into its limit; guarded by the lock on the packages
}

func (h *host) skips(step string) bool { return slices.Contains(h.without, step) }

// nobody is the user and group that Linux shows for what has no name; Debian calls them nobody and nogroup.
const nobody = 65534

// account is a user that Postgres accepts.
type account struct {
	note string // how it differs from the caller, for the chosen line; empty if it doesn't
	uid  int    // owner of its files, as the caller sees it
	gid  int

	namespace bool // run in a user namespace in which the caller is nobody
	switchTo  bool // run as uid and gid
}

// accounts lists the users that Postgres can run as, best first.
func accounts() []account {
	uid, gid := os.Geteuid(), os.Getegid()
	plain := account{uid: uid, gid: gid}
	inside := account{note: "in a user namespace", uid: uid, gid: gid, namespace: true}
	switched := account{note: "as nobody", uid: nobody, gid: nobody, switchTo: true}
	_, nameless := user.LookupId(strconv.Itoa(uid))
	switch {
	case uid == 0 && userNamespaces:
		return []account{inside, switched}
	case uid == 0:
		return []account{switched}
	case nameless != nil && userNamespaces: // docker run --user 1234: initdb refuses a user without a name
		return []account{inside, plain}
	default:
		return []account{plain}
	}
}

// own gives paths to the account.
func (a account) own(paths ...string) error {
	if !a.switchTo {
		return nil // made by the caller, who is the owner
	}
	for _, p := range paths {
		if err := os.Lchown(p, a.uid, a.gid); err != nil {
			return err
		}
	}
	return nil
}

// owns tells whether path belongs to the account.
func (a account) owns(path string) bool {
	info, err := os.Lstat(path)
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == a.uid
}

// privateMode is the mode of a folder with the account's folders in it: nobody must be able to walk through.
func (a account) privateMode() fs.FileMode {
	if a.switchTo {
		return 0o711
	}
	return 0o700
}

// settle picks base and account: the first folder in which an account of ours can write. It is dir, unless dir is
// read-only for us or lies in a home that the account can't enter.
func (h *host) settle(ctx context.Context, dir string) error {
	dir, err := runDir(dir)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(dir))
	spare := filepath.Join("/var/tmp", fmt.Sprintf("batchwright-%d-%s", os.Geteuid(), hex.EncodeToString(sum[:6])))
	var reasons []error
	for _, base := range []string{dir, spare} {
		if err := makeBase(base); err != nil {
			reasons = append(reasons, err)
			continue
		}
		for _, as := range accounts() {
			if as.namespace && h.skips("namespace") {
				continue
			}
			if err := as.try(ctx, base); err != nil {
				reasons = append(reasons, err)
				continue
			}
			h.base, h.as = base, as
			return nil
		}
	}
	return fmt.Errorf("find a folder for private servers: %w", errors.Join(reasons...))
}

// runDir is the absolute form of Options.Dir, with its default.
func runDir(dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	here, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for at := here; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return filepath.Join(at, ".run"), nil
		}
		if at == filepath.Dir(at) {
			return filepath.Join(here, ".run"), nil
		}
	}
}

// makeBase makes the folder, open to walk through whatever the umask. In the shared /var/tmp somebody else may have
// made it first, so it must be ours and writable by us alone.
func makeBase(base string) error {
	if err := os.MkdirAll(filepath.Dir(base), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(base, 0o755); err == nil {
		return os.Chmod(base, 0o755)
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if filepath.Dir(base) != "/var/tmp" {
		return nil
	}
	info, err := os.Lstat(base)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() || int(stat.Uid) != os.Geteuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a folder of ours alone", base)
	}
	return nil
}

// try writes a file in a folder of the account's own below base, as the account. Looking at modes would miss access
// lists, security modules and namespaces.
func (a account) try(ctx context.Context, base string) error {
	dir, err := os.MkdirTemp(base, "try-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if !a.namespace && !a.switchTo {
		return nil
	}
	if err := a.own(dir); err != nil {
		return err
	}
	cmd := exec.Command("/bin/sh", "-c", `: > "$0/written"`, dir)
	cmd.Dir = "/"
	cmd.SysProcAttr = a.attr()
	if _, err := output(ctx, cmd); err != nil {
		return fmt.Errorf("write in %s %s: %w", base, a.note, err)
	}
	return nil
}

// scratch makes the folder of one ephemeral server, locked against the sweep of other processes. The lock is to be
// handed to the server. /dev/shm is memory: it makes databases from templates twice as fast as a disk.
func (h *host) scratch(ctx context.Context) (string, *os.File, error) {
	parents := []string{os.TempDir(), h.base} // TMPDIR may be a folder that the account can't enter
	if roomy("/dev/shm") {
		parents = append([]string{"/dev/shm"}, parents...)
	}
	var reasons []error
	for _, parent := range parents {
		sweep(parent)
		dir, lock, err := h.scratchIn(ctx, parent)
		if err == nil {
			return dir, lock, nil
		}
		reasons = append(reasons, err)
	}
	return "", nil, errors.Join(reasons...)
}

func (h *host) scratchIn(ctx context.Context, parent string) (string, *os.File, error) {
	dir, err := os.MkdirTemp(parent, scratchPrefix)
	if err != nil {
		return "", nil, err
	}
	lock, err := tryLock(filepath.Join(dir, lockName))
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := errors.Join(os.Chmod(dir, h.as.privateMode()), h.as.try(ctx, dir)); err != nil {
		return "", nil, errors.Join(err, lock.Close(), os.RemoveAll(dir))
	}
	return dir, lock, nil
}

const (
	scratchPrefix = "batchwright-run-"
	lockName      = "lock"
	sweepAge      = time.Minute // younger ones may not be locked yet
	roomyBytes    = 2 << 30
)

// roomy tells whether the file system at path has space for the data of a few test runs.
func roomy(path string) bool {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(path, &stat); err != nil {
		return false
	}
	return uint64(stat.Bavail)*uint64(stat.Bsize) >= roomyBytes
}

// sweep removes the scratch folders that killed processes left: ours, not new, and locked by nobody.
func sweep(parent string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, scratchPrefix+"*")) // the pattern is valid
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() || time.Since(info.ModTime()) < sweepAge {
			continue
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); !ok || int(stat.Uid) != os.Geteuid() {
			continue
		}
		lock, err := tryLock(filepath.Join(dir, lockName))
		if err != nil {
			continue
		}
		os.RemoveAll(dir) // what stays is tried again at the next start
		lock.Close()
	}
}

// freePort returns a port of 127.0.0.1 that was free a moment ago.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	return port, l.Close()
}

// taken tells whether somebody else has the port by now.
func taken(port int) bool {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
	if err != nil {
		return true
	}
	l.Close()
	return false
}

// secret returns a random password that needs no quoting anywhere.
func secret() string {
	return rand.Text()
}

// shown is path as people want to read it: relative where that is shorter.
func shown(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(here, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}
