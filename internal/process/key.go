package process

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"batchwright/internal/export"
	"batchwright/internal/jobs"
	"batchwright/internal/store"
)

// CreateKey makes an API key for a project of the database at DATABASE_URL, and the project if it is missing. The key is shown this once.
func CreateKey(ctx context.Context, getenv func(string) string, project, name string) (string, error) {
	key, _, err := CreateKeyWithID(ctx, getenv, project, name)
	return key, err
}

// CreateKeyWithID is [CreateKey] that also tells the key's id, by which budgets name it.
func CreateKeyWithID(ctx context.Context, getenv func(string) string, project, name string) (key, id string, err error) {
	db, err := operate(ctx, getenv)
	if err != nil {
		return "", "", err
	}
	defer db.Close()
	return newKey(ctx, db, project, name)
}

// operate opens the database at DATABASE_URL for one command.
func operate(ctx context.Context, getenv func(string) string) (*store.DB, error) {
	r := &reader{getenv: getenv}
	_, direct := r.database()
	if len(r.problems) > 0 {
		return nil, errors.Join(r.problems...)
	}
	return store.Open(ctx, direct, store.Options{MaxConns: 1})
}

// PurgeExport is where a project's batches are exported to before they are purged: format and URL, no URL for nowhere.
type PurgeExport struct{ Format, Target string }

// SetProject changes a project of the database at DATABASE_URL: for how many days it keeps its batches, 0 for ever, its share of the
// workers, and where its batches are exported to before they are purged, which EXPORT_TARGETS must allow and is tried. Nil leaves a setting as it is.
func SetProject(ctx context.Context, getenv func(string) string, project string, retentionDays, weight *int32, purge *PurgeExport) error {
	switch {
	case retentionDays == nil && weight == nil && purge == nil:
		return errors.New("there is nothing to set")
	case retentionDays != nil && *retentionDays < 0:
		return errors.New("retention is a number of days, or 0 for ever")
	case weight != nil && (*weight < 1 || *weight > 1000):
		return errors.New("a weight is from 1 to 1000")
	}
	db, err := operate(ctx, getenv)
	if err != nil {
		return err
	}
	defer db.Close()
	set := store.ProjectSettings{RetentionDays: retentionDays, Weight: weight}
	if purge != nil {
		text, err := purgeExport(ctx, db, getenv, project, *purge)
		if err != nil {
			return err
		}
		set.PurgeExport = &text
	}
	err = db.SetProject(ctx, project, set)
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("there is no project %.100q", project)
	}
	return err
}

// purgeExport checks a setting, and returns what is stored.
func purgeExport(ctx context.Context, db *store.DB, getenv func(string) string, project string, p PurgeExport) (json.RawMessage, error) {
	if p.Target == "" {
		return nil, nil
	}
	r := &reader{getenv: getenv}
	s := &export.Service{DB: db, Places: r.places("EXPORT_TARGETS")}
	if len(r.problems) > 0 {
		return nil, errors.Join(r.problems...)
	}
	spec := jobs.ExportSpec{Format: p.Format, Target: p.Target}
	err := s.Check(ctx, store.Project{Name: project}, spec, store.ExportPurge)
	if e, ok := errors.AsType[*jobs.Error](err); ok {
		return nil, fmt.Errorf("%s %s", e.Field, e.Message)
	} else if err != nil {
		return nil, err
	}
	return json.Marshal(spec)
}

// newKey makes a key of 130 random bits behind the prefix bw_, by which secret scanners know it.
func newKey(ctx context.Context, db *store.DB, project, name string) (key, id string, err error) {
	if project == "" || len(project) > 100 {
		return "", "", errors.New("the project's name must have 1 to 100 characters")
	}
	key = "bw_" + strings.ToLower(rand.Text())
	p, err := db.CreateKey(ctx, project, name, key[:9], sha256.Sum256([]byte(key)))
	return key, p.KeyID.String(), err
}

// Query runs one SQL statement for people: every value comes back as text.
func Query(ctx context.Context, databaseURL, sql string, args ...any) (columns []string, rows [][]string, err error) {
	db, err := store.Open(ctx, databaseURL, store.Options{MaxConns: 1})
	if err != nil {
		return nil, nil, err
	}
	defer db.Close()
	return db.Text(ctx, sql, args...)
}
