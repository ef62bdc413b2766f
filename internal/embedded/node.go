package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// ErrNoRedis says that this machine has no redis-server and can't fetch one.
var ErrNoRedis = errors.New("embedded: no redis-server here")

// RedisNode is a redis-server with the caller's own configuration: one of a cluster, a replica or a sentinel. Tests put
// together with it what [Start] has no use for.
type RedisNode struct {
	p *process
}

// StartRedisNode runs the redis-server that [Start] would find, with the configuration in the file, in the file's folder; its
// output goes to a file called log there. It doesn't wait until the server answers. The server ends with this process,
// however that ends. The error is [ErrNoRedis] when there is no server to run.
func StartRedisNode(ctx context.Context, config string, args ...string) (*RedisNode, error) {
	bin, err := installedRedis()
	if err != nil {
		h := &host{ephemeral: true, notify: serialised(nil)}
		if err := h.settle(ctx, ""); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoRedis, err)
		}
		if bin, err = h.unpackedRedis(ctx); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoRedis, err)
		}
	}
	dir := filepath.Dir(config)
	log, err := os.OpenFile(filepath.Join(dir, logName), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	defer log.Close()
	cmd := bin.command(append([]string{config}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	p, err := spawn(cmd, syscall.SIGKILL)
	if err != nil {
		return nil, fmt.Errorf("embedded: %w", err)
	}
	return &RedisNode{p}, nil
}

// Stop ends the server in order, and kills it when ctx ends first. It may be called more than once.
func (n *RedisNode) Stop(ctx context.Context) error { return n.p.stop(ctx, syscall.SIGTERM) }

// Gone tells whether the server has ended.
func (n *RedisNode) Gone() bool { return n.p.gone() }

// Kill ends the server at once. It may be called more than once.
func (n *RedisNode) Kill() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	_ = n.p.stop(ended, syscall.SIGKILL) // that it was killed is what was wanted
}
