package process

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"strings"

	"batchwright/internal/store"
)

// CreateKey makes an API key for a project of the database at DATABASE_URL, and the project if it is missing. The key is shown this once.
func CreateKey(ctx context.Context, getenv func(string) string, project, name string) (string, error) {
	r := &reader{getenv: getenv}
	_, direct := r.database()
	if len(r.problems) > 0 {
		return "", errors.Join(r.problems...)
	}
	db, err := store.Open(ctx, direct, store.Options{MaxConns: 1})
	if err != nil {
		return "", err
	}
	defer db.Close()
	return newKey(ctx, db, project, name)
}

// newKey makes a key of 130 random bits behind the prefix bw_, by which secret scanners know it.
func newKey(ctx context.Context, db *store.DB, project, name string) (string, error) {
	if project == "" || len(project) > 100 {
		return "", errors.New("the project's name must have 1 to 100 characters")
	}
	key := "bw_" + strings.ToLower(rand.Text())
	_, err := db.CreateKey(ctx, project, name, key[:9], sha256.Sum256([]byte(key)))
	return key, err
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
