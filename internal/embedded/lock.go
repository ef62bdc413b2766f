package embedded

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// errLocked says that another open file description holds the lock.
var errLocked = errors.New("locked")

// tryLock takes an exclusive lock on the file at path, making it if need be. The lock lasts until the last copy of
// the returned file is closed, those that children inherited included. It returns errLocked if it is taken.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	switch err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); {
	case err == nil:
		return f, nil
	case errors.Is(err, syscall.EWOULDBLOCK):
		f.Close()
		return nil, errLocked
	default:
		f.Close()
		return nil, &os.PathError{Op: "flock", Path: path, Err: err}
	}
}

// waitLock is tryLock that waits until ctx ends. It polls, because a blocking flock can't be interrupted.
func waitLock(ctx context.Context, path string) (*os.File, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		f, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return f, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(errLocked, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// workFolder makes a folder in parent for something that is renamed when it is complete. The caller holds the lock on
// parent, so folders that are there already were left by killed processes, and are removed.
func workFolder(parent string) (string, error) {
	left, _ := filepath.Glob(filepath.Join(parent, workPrefix+"*")) // the pattern is valid
	for _, dir := range left {
		if err := os.RemoveAll(dir); err != nil && !errors.Is(err, fs.ErrPermission) {
			return "", err
		}
	}
	return os.MkdirTemp(parent, workPrefix)
}

const workPrefix = "new-"
