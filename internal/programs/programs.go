// Package programs builds the programs of this checkout, for benches and tests that run them as processes. It needs Go and the sources.
package programs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Root returns the folder of the checkout that the process works in.
func Root(ctx context.Context) (string, error) {
	mod, err := Tool(ctx, "go", "env", "GOMOD")
	return filepath.Dir(mod), err
}

// Build builds programs of cmd/ as make build does, and returns the folder they are in: the checkout's bin/ or, with tags, one of its own below
// .run/. Go leaves what is up to date there as it is, so of several tests only the first one waits for the linker.
func Build(ctx context.Context, tags string, names ...string) (dir string, err error) {
	root, err := Root(ctx)
	if err != nil {
		return "", err
	}
	dir = filepath.Join(root, "bin")
	if tags != "" {
		dir = filepath.Join(root, ".run", "bin-"+strings.ReplaceAll(tags, ",", "-"))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("programs: %w", err)
	}
	// Tests of several packages build at the same time; nobody is to start what another is just writing.
	lock, err := os.Open(dir)
	if err != nil {
		return "", fmt.Errorf("programs: %w", err)
	}
	defer func() { _ = lock.Close() }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("programs: wait for another build: %w", err)
	}
	args := []string{"build", "-C", root, "-trimpath", "-buildvcs=false", "-tags=" + tags, "-o", dir + string(filepath.Separator)}
	for _, name := range names {
		args = append(args, "./cmd/"+name)
	}
	_, err = Tool(ctx, "go", args...)
	return dir, err
}

// toolLimit is longer than the slowest machine takes to compile everything.
const toolLimit = 10 * time.Minute

// Tool runs one of the developer's tools and returns what it prints, without the space around it. It doesn't outlive ctx, nor does what it has started.
func Tool(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, toolLimit, fmt.Errorf("%s took longer than %s", name, toolLimit))
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0") // as make build has it, which has then compiled most already
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the compilers as well
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr)))
	}
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, args[0], err)
	}
	return strings.TrimSpace(string(out)), nil
}
