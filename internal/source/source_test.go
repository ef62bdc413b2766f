package source_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"batchwright/internal/bucket"
	"batchwright/internal/egress"
	"batchwright/internal/source"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

// lab is a folder that is allowed, and Sources of it.
func lab(t *testing.T, o source.Options) (dir string, s *source.Sources) {
	t.Helper()
	dir = t.TempDir()
	places, err := bucket.ParsePlaces("file://" + dir + "/docs/")
	if err != nil {
		t.Fatal(err)
	}
	o.Places = places
	s = source.New(o)
	t.Cleanup(s.Close)
	return dir, s
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// read returns the items of URLs, and how it ended.
func read(t *testing.T, s *source.Sources, urls ...string) (items []source.Item, err error) {
	t.Helper()
	for item, err := range s.Items(t.Context(), "test", source.Spec{URLs: urls}, true) {
		if err != nil {
			return items, err
		}
		item.Data = slices.Clone(item.Data)
		items = append(items, item)
	}
	return items, nil
}

func TestObjectsComeOnceAndInOrder(t *testing.T) {
	t.Parallel()
	dir, s := lab(t, source.Options{MaxDocument: 1 << 20})
	base := "file://" + dir + "/docs/"
	for i := range 200 {
		write(t, dir, fmt.Sprintf("docs/all/%03d.md", i), strings.Repeat("x", i*100))
	}
	write(t, dir, "docs/a b.md", "with a blank")
	write(t, dir, "docs/big.md", strings.Repeat("x", 1<<20+1))
	write(t, dir, "docs/other.txt", "other")
	items, err := read(t, s, base+"other.txt", base+"all/*.md", base+"**/*.md", base+"a%20b.md", base+"all/007.md", base+"none.md", base+"all/*.none")
	if err != nil || len(items) != 204 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for i, want := range []string{"other.txt", "a%20b.md", "all/007.md", "none.md"} { // what is named comes first
		if items[i].ID != base+want {
			t.Errorf("%+v, want %s", items[i], want)
		}
	}
	if items[0].Name != "other.txt" || string(items[0].Data) != "other" || items[1].Name != "a b.md" || string(items[1].Data) != "with a blank" {
		t.Errorf("%+v, %+v", items[0], items[1])
	}
	for i, item := range items[4:203] {
		if i >= 7 {
			i++
		}
		if item.ID != fmt.Sprintf("%sall/%03d.md", base, i) || item.Err != nil || len(item.Data) != i*100 {
			t.Fatalf("item %d is %s: %d bytes, %v", i, item.ID, len(item.Data), item.Err)
		}
	}
	for i, why := range map[int]string{203: "longer than 1048576 bytes", 3: "does not exist"} {
		if items[i].Err == nil || !strings.Contains(items[i].Err.Error(), why) {
			t.Errorf("%s: %v", items[i].ID, items[i].Err)
		}
	}
}

// TestReadingStopsWithItsReader: whoever has seen enough leaves nothing behind, which goleak would find, and a context that ends is an end with
// an error, and no item that can't be read.
func TestReadingStopsWithItsReader(t *testing.T) {
	t.Parallel()
	dir, s := lab(t, source.Options{})
	for i := range 100 {
		write(t, dir, fmt.Sprintf("docs/%03d.md", i), "text")
	}
	spec := source.Spec{URLs: []string{"file://" + dir + "/docs/"}}
	for _, err := range s.Items(t.Context(), "test", spec, true) {
		if err != nil {
			t.Error(err)
		}
		break
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	why := errors.New("for a reason")
	n := 0
	for item, err := range s.Items(ctx, "test", spec, true) {
		if n++; n == 10 {
			cancel(why)
		}
		if err != nil {
			if !errors.Is(err, why) || n < 11 {
				t.Errorf("after %d items: %v", n, err)
			}
			return
		}
		if item.Err != nil {
			t.Errorf("%+v", item)
		}
	}
	t.Error("it ended without an error")
}

func TestAFolderThatIsNotThereEndsTheSource(t *testing.T) {
	t.Parallel()
	dir, s := lab(t, source.Options{})
	write(t, dir, "docs/a.md", "text")
	base := "file://" + dir + "/docs/"
	_, err := read(t, s, base+"a.md", base+"none/*")
	if e, ok := errors.AsType[*source.Error](err); !ok || e.Refused || e.Field != "source.urls[1]" || !strings.Contains(e.Message, "can't be listed") {
		t.Errorf("%v", err)
	}
}

func TestLimitsOfASource(t *testing.T) {
	t.Parallel()
	for what, o := range map[string]source.Options{"9 items": {MaxItems: 9}, "39 bytes": {MaxBytes: 39}} {
		dir, s := lab(t, o)
		for i := range 10 {
			write(t, dir, fmt.Sprintf("docs/%d.md", i), "text")
		}
		_, err := read(t, s, "file://"+dir+"/docs/")
		if e, ok := errors.AsType[*source.Error](err); !ok || !e.Refused || !strings.Contains(e.Message, what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestSpecsAreCheckedWhenTheyAreSaved(t *testing.T) {
	t.Parallel()
	dir, s := lab(t, source.Options{Web: true, Guard: egress.Guard{AllowHTTP: true}, Databases: map[string]source.Database{"warehouse": table{columns: []string{"id", "body", "price"}}}})
	docs := "file://" + dir + "/docs/"
	query := func(rest string) string { return `{"query":{"connection":"warehouse",` + rest + `}}` }
	for _, tt := range []struct {
		spec      string
		variables bool
		field     string // empty: it is good
		words     string
	}{
		{spec: `{"urls":["` + docs + `**/*.md","https://example.com/a.html"]}`},
		{spec: query(`"sql":"select","id":"id","document":"body"`)},
		{spec: query(`"sql":"select","id":"id"`), variables: true},

		{spec: `{}`, field: "source", words: "either"}, {spec: `[]`, field: "source", words: "form"},
		{spec: `{"urls":["x"],"query":{}}`, field: "source", words: "either"}, {spec: `{"urls":["` + docs + `"],"more":1}`, field: "source", words: "form"},
		{spec: `{"urls":["` + docs + `","ftp://example.com/"]}`, field: "source.urls[1]", words: "schemes"},
		{spec: `{"urls":["file:///etc/passwd"]}`, field: "source.urls[0]", words: "not below one of the places"},
		{spec: `{"urls":["` + docs + `../secret.md"]}`, field: "source.urls[0]", words: ".."},
		{spec: `{"urls":["` + docs + `[a.md"]}`, field: "source.urls[0]", words: "no pattern"},
		{spec: `{"urls":["s3://key:secret@docs/a"]}`, field: "source.urls[0]", words: "user or password"},
		{spec: `{"urls":["https://me:secret@example.com/"]}`, field: "source.urls[0]", words: "user name or password"},
		{spec: `{"urls":["http://169.254.169.254/latest/meta-data"]}`, field: "source.urls[0]", words: "not public"},
		{spec: `{"urls":["http://localhost:8080/"]}`, field: "source.urls[0]", words: "public name"},
		{spec: `{"urls":["` + docs + `"]}`, variables: true, field: "source.urls", words: "variables"},
		{spec: query(`"sql":"select"`), field: "source.query.id", words: "missing"},
		{spec: query(`"sql":" ","id":"id"`), field: "source.query.sql", words: "statement"},
		{spec: query(`"sql":"select","id":"id"`), field: "source.query.document", words: "missing"},
		{spec: query(`"sql":"select","id":"id","document":"body"`), variables: true, field: "source.query.document", words: "variable"},
		{spec: query(`"sql":"select","id":"key","document":"body"`), field: "source.query.id", words: "id, body, price"},
		{spec: query(`"sql":"select","id":"id","document":"body","name":"title"`), field: "source.query.name", words: "none of the columns"},
		{spec: query(`"sql":"select","id":"id","name":"title"`), variables: true, field: "source.query.name", words: "goes with document"},
		{spec: query(`"sql":"wrong","id":"id","document":"body"`), field: "source.query.sql", words: "no such table"},
		{spec: `{"query":{"connection":"other","sql":"select","id":"id","document":"body"}}`, field: "source.query.connection", words: "none of"},
		{spec: `{"query":{"connection":"postgres://","sql":"select","id":"id"}}`, field: "source.query.connection", words: "name"},
	} {
		spec, err := source.Parse(json.RawMessage(tt.spec))
		var variables []string
		if err == nil {
			variables, err = s.Check(t.Context(), "test", spec, !tt.variables)
		}
		if tt.field == "" {
			if err != nil || tt.variables && !slices.Equal(variables, []string{"body", "price"}) {
				t.Errorf("%s: %v, variables %v", tt.spec, err, variables)
			}
			continue
		}
		if e, ok := errors.AsType[*source.Error](err); !ok || e.Field != tt.field || !strings.Contains(e.Message, tt.words) || !e.Refused {
			t.Errorf("%s: %v; want %s: ... %s", tt.spec, err, tt.field, tt.words)
		}
	}
	spec := source.Spec{URLs: []string{"https://example.com/"}}
	if _, err := source.New(source.Options{}).Check(t.Context(), "test", spec, true); err == nil {
		t.Error("the web is read without leave")
	}
}

// table is a database of one table.
type table struct {
	columns []string
	rows    [][]any
}

func (d table) Columns(_ context.Context, sql string) ([]string, error) {
	if sql == "wrong" {
		return nil, &source.Error{Message: "there is no such table", Refused: true}
	}
	return d.columns, nil
}

func (d table) Rows(_ context.Context, _ string, begin func([]string) error) iter.Seq2[[]any, error] {
	return func(yield func([]any, error) bool) {
		if err := begin(d.columns); err != nil {
			yield(nil, err)
			return
		}
		for _, row := range d.rows {
			if !yield(row, nil) {
				return
			}
		}
	}
}

func TestRowsBecomeDocumentsOrVariables(t *testing.T) {
	t.Parallel()
	raw := func(s string) json.RawMessage { return json.RawMessage(s) }
	db := table{columns: []string{"title", "id", "body"}, rows: [][]any{
		{"One \"1\"", raw("1"), "text"}, {nil, "two", raw(`{"a":1.50}`)}, {"three", raw("3"), nil}, {"four", nil, "text"}, {"five", "5", []byte{0xff, 0}},
	}}
	_, s := lab(t, source.Options{Databases: map[string]source.Database{"w": db}})
	all := func(q source.Query, documents bool) (items []source.Item) {
		for item, err := range s.Items(t.Context(), "test", source.Spec{Query: &q}, documents) {
			if err != nil {
				t.Fatal(err)
			}
			items = append(items, item)
		}
		return items
	}
	got := ""
	for _, item := range all(source.Query{Connection: "w", SQL: "select", ID: "id"}, false) {
		got += fmt.Sprintf("%s %s %v\n", item.ID, item.Variables, item.Err != nil)
	}
	if got != `1 {"title":"One \"1\"","body":"text"} false
two {"title":null,"body":{"a":1.50}} false
3 {"title":"three","body":null} false
  true
5  true
` {
		t.Errorf("variables:\n%s", got)
	}
	got = ""
	for _, item := range all(source.Query{Connection: "w", SQL: "select", ID: "id", Document: "body", Name: "title"}, true) {
		got += fmt.Sprintf("%s %s %x %v\n", item.ID, item.Name, item.Data, item.Err != nil)
	}
	if got != "1 One \"1\" 74657874 false\ntwo  7b2261223a312e35307d false\n3 three  true\n   true\n5 five ff00 false\n" {
		t.Errorf("documents:\n%s", got)
	}
}

// site is a web server on this machine, which the guard of its Sources allows by its address.
func site(t *testing.T, o source.Options, h http.HandlerFunc) (url string, s *source.Sources) {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	o.Web, o.Guard = true, egress.Guard{AllowHTTP: true, AllowHosts: []string{"127.0.0.1"}}
	_, s = lab(t, o)
	return srv.URL, s
}

func TestPages(t *testing.T) {
	t.Parallel()
	var flaky, busy atomic.Int32
	var inside atomic.Int32
	secret := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { inside.Add(1) }))
	t.Cleanup(secret.Close)
	url, s := site(t, source.Options{MaxDocument: 1000}, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Cookie")+r.Header.Get("Authorization")+r.Header.Get("Referer") != "" || r.UserAgent() != "Batchwright-Sources" {
			t.Errorf("the request has %v", r.Header)
		}
		switch r.URL.Path {
		case "/a.html":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			http.SetCookie(w, &http.Cookie{Name: "a", Value: "b"})
			_, _ = w.Write([]byte("<p>a</p>"))
		case "/moved":
			http.Redirect(w, r, "/a.html#part", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/inside": // a name of the same server that the guard doesn't exempt
			http.Redirect(w, r, strings.Replace(secret.URL, "127.0.0.1", "127.0.0.2", 1), http.StatusFound)
		case "/file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		case "/big":
			w.(http.Flusher).Flush() // so that its length isn't told
			_, _ = w.Write(make([]byte, 1001))
		case "/flaky":
			if flaky.Add(1) < 3 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			_, _ = w.Write([]byte("at last"))
		case "/busy":
			busy.Add(1)
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			http.NotFound(w, r)
		}
	})
	items, err := read(t, s, url+"/a.html", url+"/moved", url+"/loop", url+"/inside", url+"/file", url+"/big", url+"/flaky", url+"/busy", url+"/none", url+"/a.html")
	if err != nil || len(items) != 9 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for i, name := range []string{"a.html", "moved"} {
		if got := items[i]; got.Err != nil || string(got.Data) != "<p>a</p>" || got.ContentType != "text/html; charset=utf-8" || got.Name != name {
			t.Errorf("%+v", got)
		}
	}
	if string(items[6].Data) != "at last" || flaky.Load() != 3 {
		t.Errorf("%+v after %d requests", items[6], flaky.Load())
	}
	for i, why := range map[int]string{2: "more than 5 times", 3: "not public", 4: "isn't followed", 5: "longer than 1000 bytes", 7: "1h0m0s", 8: "answered 404"} {
		if items[i].Err == nil || !strings.Contains(items[i].Err.Error(), why) {
			t.Errorf("%s: %v, want %s", items[i].ID, items[i].Err, why)
		}
	}
	if inside.Load() != 0 || busy.Load() != 1 {
		t.Errorf("%d requests to what is private, %d to a host that wants none", inside.Load(), busy.Load())
	}
}

// TestSlowHosts: of one host, two pages are fetched at once; each attempt has its time; a host that is silent isn't waited for again and again.
func TestSlowHosts(t *testing.T) {
	t.Parallel()
	var now, most, asked atomic.Int32
	url, s := site(t, source.Options{WebTimeout: 50 * time.Millisecond}, func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if n := now.Add(1); n > most.Load() {
			most.Store(n)
		}
		<-r.Context().Done()
		now.Add(-1)
	})
	var urls []string
	for i := range 30 {
		urls = append(urls, fmt.Sprintf("%s/%d", url, i))
	}
	items, err := read(t, s, urls...)
	if err != nil || len(items) != 30 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for i, why := range map[int]string{0: "no whole answer within 50ms", 29: "didn't answer"} {
		if items[i].Err == nil || !strings.Contains(items[i].Err.Error(), why) {
			t.Errorf("%v, want %s", items[i].Err, why)
		}
	}
	if most.Load() > 3 || asked.Load() > 20 { // a request that was given up may not have ended at the server
		t.Errorf("%d requests, %d at once", asked.Load(), most.Load())
	}
}
