package redis

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"batchwright/internal/gateway"
)

const answerPrefix = "gateway:answer:"

// An answer is stored as the length of its description (4 bytes, big endian), the description in JSON, and the body as
// it is: bodies are large, and JSON would make them larger.
func encodeAnswer(a *gateway.Cached) ([]byte, error) {
	described := *a
	described.Body = nil
	head, err := json.Marshal(&described)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 4+len(head)+len(a.Body))
	b = binary.BigEndian.AppendUint32(b, uint32(len(head)))
	return append(append(b, head...), a.Body...), nil
}

func decodeAnswer(b []byte) (*gateway.Cached, error) {
	if len(b) < 4 {
		return nil, errors.New("a stored answer is cut short")
	}
	n := binary.BigEndian.Uint32(b)
	if uint64(len(b)-4) < uint64(n) {
		return nil, errors.New("a stored answer is cut short")
	}
	var a gateway.Cached
	if err := json.Unmarshal(b[4:4+n], &a); err != nil {
		return nil, errors.New("a stored answer can't be read") // the cause may show some of it
	}
	a.Body = b[4+n:]
	return &a, nil
}

// GetAnswer implements gateway.SharedCache.
func (r *Redis) GetAnswer(ctx context.Context, key string) (*gateway.Cached, error) {
	b, err := r.c.Get(ctx, answerPrefix+key).Bytes()
	if errors.Is(err, goredis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("redis: get answer: %w", err)
	}
	a, err := decodeAnswer(b)
	if err != nil {
		return nil, fmt.Errorf("redis: get answer: %w", err)
	}
	return a, nil
}

// PutAnswer implements gateway.SharedCache. Redis forgets the answer after ttl, to the millisecond.
func (r *Redis) PutAnswer(ctx context.Context, key string, a *gateway.Cached, ttl time.Duration) error {
	b, err := encodeAnswer(a)
	if err != nil {
		return fmt.Errorf("redis: put answer: %w", err)
	}
	if err := r.c.Set(ctx, answerPrefix+key, b, max(ttl, time.Millisecond)).Err(); err != nil {
		return fmt.Errorf("redis: put answer: %w", err)
	}
	return nil
}

// globs escapes what a pattern of Redis gives a meaning to.
var globs = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`)

// DeleteAnswers implements gateway.SharedCache. It walks over the keys of the whole database in steps, so that Redis
// goes on serving; answers that are put meanwhile may stay.
func (r *Redis) DeleteAnswers(ctx context.Context, prefix string) error {
	forget := func(ctx context.Context, c goredis.UniversalClient) error {
		var cursor uint64
		for {
			keys, next, err := c.Scan(ctx, cursor, globs.Replace(answerPrefix+prefix)+"*", 1000).Result()
			if err != nil {
				return err
			}
			_, err = c.Pipelined(ctx, func(p goredis.Pipeliner) error {
				for _, k := range keys { // one by one: on a cluster they are of many slots
					p.Unlink(ctx, k)
				}
				return nil
			})
			if err != nil {
				return err
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	var err error
	if r.cluster == nil {
		err = forget(ctx, r.c)
	} else {
		err = r.cluster.ForEachMaster(ctx, func(ctx context.Context, node *goredis.Client) error { return forget(ctx, node) })
	}
	if err != nil {
		return fmt.Errorf("redis: delete answers: %w", err)
	}
	return nil
}
