package process

import (
	"context"
	"errors"
	"iter"
	"net/netip"
	"strings"
	"time"

	"batchwright/internal/bucket"
	"batchwright/internal/egress"
	"batchwright/internal/source"
	"batchwright/internal/store"
)

// sourceConfig is what batches' sources may reach. The API checks it when a batch is submitted, a worker when it reads: they must agree.
type sourceConfig struct {
	places    bucket.Places              // SOURCE_PLACES: prefixes such as file:///srv/docs/ and s3://docs/; default none
	databases map[string]*store.External // SOURCE_CONNECTIONS: names; SOURCE_CONNECTION_NAME: each one's URL; default none
	web       bool                       // SOURCE_HTTP: http and https URLs; default true
	guard     egress.Guard               // SOURCE_ALLOW_PRIVATE, SOURCE_ALLOW_HOSTS: default public addresses only
	items     int                        // SOURCE_MAX_ITEMS: of one source; default a million
	bytes     int64                      // SOURCE_MAX_BYTES: of one source; default 64 GiB
	timeout   time.Duration              // SOURCE_HTTP_TIMEOUT: for one answer; default 30s
}

func (r *reader) source(maxDocument int) sourceConfig {
	c := sourceConfig{
		places:  r.places("SOURCE_PLACES"),
		web:     r.flagOr("SOURCE_HTTP", "true"),
		guard:   egress.Guard{AllowHTTP: true, AllowPrivate: r.flag("SOURCE_ALLOW_PRIVATE"), AllowHosts: r.hosts("SOURCE_ALLOW_HOSTS")},
		items:   int(r.whole("SOURCE_MAX_ITEMS", 1_000_000, 1, 100_000_000)),
		bytes:   r.whole("SOURCE_MAX_BYTES", 64<<30, 1<<10, 1<<50),
		timeout: r.duration("SOURCE_HTTP_TIMEOUT", 30*time.Second, time.Second),
	}
	limit := r.duration("SOURCE_QUERY_TIMEOUT", 10*time.Minute, time.Second)
	c.databases = map[string]*store.External{}
	for name := range strings.FieldsFuncSeq(r.text("SOURCE_CONNECTIONS", ""), func(c rune) bool { return c == ',' || c == ' ' }) {
		if !source.ConnectionName(name) {
			r.fail("SOURCE_CONNECTIONS", "want names with commas between, each a lower-case letter and then letters, digits and underscores")
			continue
		}
		variable := "SOURCE_CONNECTION_" + strings.ToUpper(name)
		// As Postgres sends them, bytes are twice as long.
		db, err := store.OpenExternal(r.need(variable, "want the URL of the database that SOURCE_CONNECTIONS names"), limit, 2*maxDocument+1<<20)
		if err != nil && r.text(variable, "") != "" {
			r.fail(variable, "want a Postgres URL such as postgres://reader:password@host:5432/warehouse, with special characters escaped")
		}
		c.databases[name] = db
	}
	return c
}

// hosts reads names and addresses that are exempt from a guard's checks.
func (r *reader) hosts(variable string) (all []string) {
	for host := range strings.SplitSeq(r.text(variable, ""), ",") {
		host = strings.ToLower(strings.Trim(strings.TrimSpace(host), "[]."))
		if host == "" {
			continue
		}
		if _, err := netip.ParseAddr(host); err != nil && strings.ContainsAny(host, "/:@* ") {
			r.fail(variable, "want names or addresses without scheme and port, with commas between")
			continue
		}
		all = append(all, host)
	}
	return all
}

// openSources makes ready what batches may read.
func (s *system) openSources() {
	c := s.c.Source
	databases := map[string]source.Database{}
	for name, db := range c.databases {
		databases[name] = external{db}
	}
	s.sources = source.New(source.Options{Places: c.places, Databases: databases, Web: c.web, Guard: c.guard, MaxDocument: int64(s.c.MaxLine),
		MaxItems: c.items, MaxBytes: c.bytes, WebTimeout: c.timeout})
	s.close = append(s.close, s.sources.Close)
}

// external is a database of the store as package source wants it.
type external struct{ db *store.External }

func (e external) Columns(ctx context.Context, sql string) ([]string, error) {
	names, err := e.db.Columns(ctx, sql)
	return names, ofSource(err)
}

func (e external) Rows(ctx context.Context, sql string, begin func([]string) error) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		for row, err := range e.db.Rows(ctx, sql, begin) {
			if !yield(row, ofSource(err)) {
				return
			}
		}
	}
}

func ofSource(err error) error {
	if e, ok := errors.AsType[*store.ExternalError](err); ok {
		return &source.Error{Message: e.Message, Refused: e.Refused, Err: e}
	}
	return err
}
