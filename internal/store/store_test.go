package store_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

// TestStatementsPrepare asks Postgres to parse and check every named statement of the package.
func TestStatementsPrepare(t *testing.T) {
	t.Parallel()
	conn, err := pgx.Connect(t.Context(), storetest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	exprs := map[string]ast.Expr{}
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	for _, f := range files {
		if !strings.HasSuffix(f.Name(), ".go") || strings.HasSuffix(f.Name(), "_test.go") {
			continue
		}
		file, err := parser.ParseFile(fset, f.Name(), nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.CONST {
				continue
			}
			for _, s := range g.Specs {
				v := s.(*ast.ValueSpec)
				for i, n := range v.Names {
					if i < len(v.Values) {
						exprs[n.Name] = v.Values[i]
					}
				}
			}
		}
	}
	var value func(e ast.Expr) string
	value = func(e ast.Expr) string {
		switch e := e.(type) {
		case *ast.BasicLit:
			return strings.Trim(e.Value, "`\"")
		case *ast.BinaryExpr:
			return value(e.X) + value(e.Y)
		case *ast.Ident:
			return value(exprs[e.Name])
		}
		return ""
	}
	n := 0
	for name, e := range exprs {
		sql := value(e)
		if !strings.HasPrefix(sql, "-- name: ") {
			continue
		}
		n++
		if _, err := conn.Prepare(t.Context(), name, sql); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n < 40 {
		t.Fatalf("found %d statements, want all of them", n)
	}
}

// TestEverythingIsCommented keeps the schema readable for an analyst.
func TestEverythingIsCommented(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t)
	missing := storetest.Scalar[[]string](t, url, `
		select coalesce(array_agg(c.oid::regclass || coalesce('.' || a.attname, '')), '{}')
		from pg_class c join pg_namespace n on n.oid = c.relnamespace
		left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
		where n.nspname in ('public', 'reports') and c.relkind in ('r', 'v') and c.relname <> 'goose_db_version'
		and (obj_description(c.oid) is null or col_description(c.oid, a.attnum) is null)`)
	if len(missing) > 0 {
		t.Errorf("without a comment: %s", strings.Join(missing, ", "))
	}
}

func TestMigrateTwiceAndLevel(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t)
	want, err := store.WantMigration()
	if err != nil {
		t.Fatal(err)
	}
	got, err := store.Migrate(t.Context(), url)
	if err != nil || got != want {
		t.Fatalf("migrate: level %d, %v; want %d", got, err, want)
	}
	db, err := store.Open(t.Context(), url, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if got, err := db.Ready(t.Context()); err != nil || got != want {
		t.Fatalf("ready: level %d, %v; want %d", got, err, want)
	}
}

func TestOpenNeverShowsThePassword(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"postgres://u:hunter2@127.0.0.1:1/db", "postgres://u:hunter2@[bad/db", "host=/nowhere password=hunter2 port=x"} {
		_, err := store.Open(t.Context(), url, store.Options{})
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error %v: want one without the password", err)
		}
	}
}
