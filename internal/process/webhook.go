package process

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"batchwright/internal/egress"
	"batchwright/internal/webhook"
)

// webhookConfig is what the API and the workers must agree on.
type webhookConfig struct {
	key   []byte // WEBHOOK_KEY: secrets are derived from it; default none, and then no webhooks
	guard egress.Guard
}

func (r *reader) webhook() webhookConfig {
	c := webhookConfig{guard: egress.Guard{
		AllowHTTP:    r.flag("WEBHOOK_ALLOW_HTTP"),
		AllowPrivate: r.flag("WEBHOOK_ALLOW_PRIVATE"),
		AllowHosts:   r.hosts("WEBHOOK_ALLOW_HOSTS"),
	}}
	if v := r.text("WEBHOOK_KEY", ""); v != "" {
		key, err := hex.DecodeString(v)
		if err != nil {
			key, err = base64.StdEncoding.DecodeString(v)
		}
		if err != nil || len(key) < webhook.MinKey {
			r.fail("WEBHOOK_KEY", "want at least %d random bytes in base64 or hex, as `openssl rand -base64 %d` makes them", webhook.MinKey, webhook.MinKey)
		}
		c.key = key
	}
	return c
}

func (s *system) webhooks() *webhook.Service {
	return &webhook.Service{DB: s.db, Key: s.c.Webhook.key, Guard: s.c.Webhook.guard}
}

// runWebhooks sends messages until ctx ends.
func (s *system) runWebhooks(ctx context.Context) error {
	webhook.NewDeliverer(s.db, s.c.Webhook.key, s.c.Webhook.guard, s.log, webhook.Options{}).Run(ctx)
	return nil
}

// devWebhooks is the environment of the dev command, in which webhooks work: with a key of its own, kept in dir if there is one, and to
// receivers on this machine.
func devWebhooks(getenv func(string) string, dir string, ephemeral bool) (func(string) string, error) {
	key := getenv("WEBHOOK_KEY")
	if key == "" && (ephemeral || dir != "") {
		var err error
		if key, err = keptKey(dir); err != nil {
			return nil, err
		}
	}
	return func(name string) string {
		v := getenv(name)
		switch name {
		case "WEBHOOK_KEY":
			return key
		case "WEBHOOK_ALLOW_HTTP", "WEBHOOK_ALLOW_PRIVATE":
			if v == "" {
				return "true"
			}
		}
		return v
	}, nil
}

// keptKey returns the key in the file webhook.key of dir, which it makes when it is missing; without dir, any key.
func keptKey(dir string) (string, error) {
	fresh := make([]byte, webhook.MinKey)
	_, _ = rand.Read(fresh) // never fails
	key := base64.StdEncoding.EncodeToString(fresh)
	if dir == "" {
		return key, nil
	}
	path := filepath.Join(dir, "webhook.key")
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		kept, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("webhook key: %w", err)
		}
		return string(kept), nil
	}
	if err != nil {
		return "", fmt.Errorf("webhook key: %w", err)
	}
	_, err = f.WriteString(key)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("webhook key: %w", err)
	}
	return key, nil
}
