package bucket

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func places(t *testing.T, list string) Places {
	t.Helper()
	p, err := ParsePlaces(list)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func open(t *testing.T, p Places, url string) (*Bucket, string) {
	t.Helper()
	b, key, err := p.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b, key
}

func write(t *testing.T, b *Bucket, key, text string) {
	t.Helper()
	w, err := b.Create(t.Context(), key, WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, b *Bucket, key string) (string, Object) {
	t.Helper()
	r, o, err := b.Read(t.Context(), key, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Fatal(err)
	}
	return string(text), o
}

func list(t *testing.T, b *Bucket, pattern string) (keys []string) {
	t.Helper()
	for o, err := range b.List(t.Context(), pattern) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, o.Key)
	}
	slices.Sort(keys)
	return keys
}

// conform is what every storage promises.
func conform(t *testing.T, b *Bucket, base string) {
	for _, key := range []string{"a.csv", "b.csv", "x/a.csv", "x/y/a.csv", "x/y/b.txt"} {
		write(t, b, base+key, "text of "+key)
	}
	for pattern, want := range map[string]string{
		"":           "a.csv b.csv x/a.csv x/y/a.csv x/y/b.txt",
		"*.csv":      "a.csv b.csv",
		"**/*.csv":   "a.csv b.csv x/a.csv x/y/a.csv",
		"x/":         "x/a.csv x/y/a.csv x/y/b.txt",
		"x/**/?.csv": "x/a.csv x/y/a.csv",
		"[b-z].csv":  "b.csv",
		"x/y/b.txt":  "x/y/b.txt",
		"x/y/b":      "",
		"**/y/*":     "x/y/a.csv x/y/b.txt",
	} {
		got := list(t, b, base+pattern)
		for i := range got {
			got[i] = strings.TrimPrefix(got[i], base)
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("pattern %q lists %q, want %q", pattern, s, want)
		}
	}
	text, before := read(t, b, base+"a.csv")
	if text != "text of a.csv" || before.Size != int64(len(text)) || before.ModTime.IsZero() {
		t.Errorf("%q, %+v", text, before)
	}
	for o, err := range b.List(t.Context(), base+"a.csv") {
		if err != nil || o.Version() != before.Version() || o.Size != before.Size {
			t.Errorf("listed as %+v, read as %+v: %v", o, before, err)
		}
	}
	write(t, b, base+"a.csv", "another text")
	if text, after := read(t, b, base+"a.csv"); text != "another text" || after.Version() == before.Version() {
		t.Errorf("%q, version %s after %s", text, after.Version(), before.Version())
	}

	// Nothing of what is aborted, or whose context ends, is to be seen, however much was written.
	for _, size := range []int{10, 3*uploadPart + 1} {
		for _, key := range []string{"a.csv", "new"} {
			ctx, cancel := context.WithCancelCause(t.Context())
			w, err := b.Create(ctx, base+key, WriteOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(bytes.Repeat([]byte("x"), size)); err != nil {
				t.Fatal(err)
			}
			if key == "new" {
				cancel(errors.New("for a reason"))
				if err := w.Commit(); err == nil {
					t.Error("committed after the context's end")
				}
			}
			w.Abort()
			w.Abort()
			cancel(nil)
		}
	}
	if text, _ := read(t, b, base+"a.csv"); text != "another text" {
		t.Errorf("an aborted write left %q", text)
	}
	if got := list(t, b, base+"new"); got != nil {
		t.Errorf("an aborted write left %q", got)
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), (2*uploadPart+100)/16)
	write(t, b, base+"large", string(large))
	if _, _, err := b.Read(t.Context(), base+"large", 1000); !refused(err) {
		t.Errorf("an object over the limit: %v", err)
	}
	r, _, err := b.Read(t.Context(), base+"large", int64(len(large)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, large) {
		t.Errorf("%d bytes, %v, want %d", len(got), err, len(large))
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Probe(t.Context(), base+"x/new/name.csv", 1); err != nil {
		t.Error(err)
	}
	for _, key := range []string{"", base + "x/"} {
		if err := b.Probe(t.Context(), key, 0); !refused(err) {
			t.Errorf("probe of %q: %v", key, err)
		}
		if _, err := b.Create(t.Context(), key, WriteOptions{}); !refused(err) {
			t.Errorf("create %q: %v", key, err)
		}
	}
	if _, _, err := b.Read(t.Context(), base+"missing", 1); err == nil || refused(err) {
		t.Errorf("a missing object: %v", err)
	}
	for _, err := range b.List(t.Context(), base+"[") {
		if !refused(err) {
			t.Errorf("a bad pattern: %v", err)
		}
	}
}

func refused(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Refused
}

func TestFiles(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	b, key := open(t, places(t, "file://"+folder), "file://"+folder+"/some/key")
	if key != "some/key" {
		t.Errorf("key %q", key)
	}
	conform(t, b, "")
	var left []string
	if err := filepath.WalkDir(folder, func(name string, _ os.DirEntry, err error) error {
		if leftover(name) {
			left = append(left, name)
		}
		return err
	}); err != nil || left != nil {
		t.Errorf("left over: %q, %v", left, err)
	}
	if err := b.Probe(t.Context(), "no/such/folder/x.csv", 2); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a folder that is missing: %v", err)
	}
	if err := b.Probe(t.Context(), "no/such/folder/x.csv", 3); err != nil {
		t.Error(err)
	}
	own, _ := open(t, places(t, "file://"+folder+"/{project}/").Of("mine"), "file://"+folder+"/mine/x")
	write(t, own, "x", "in a folder that was made")
	if err := os.MkdirAll(filepath.Join(folder, "taken"), 0o700); err != nil {
		t.Fatal(err)
	}
	w, err := b.Create(t.Context(), "taken", WriteOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(); err == nil {
		t.Error("a folder was replaced by a file")
	}
	w.Abort()
	if err := syscall.Mkfifo(filepath.Join(folder, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Read(t.Context(), "fifo", 1); !refused(err) { // and not for ever
		t.Errorf("a fifo: %v", err)
	}
}

func TestNothingLeadsOutOfAFolder(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	folder, secret := filepath.Join(top, "root"), filepath.Join(top, "secret")
	if err := errors.Join(os.MkdirAll(folder, 0o700), os.MkdirAll(secret, 0o700), os.WriteFile(filepath.Join(secret, "key"), []byte("s"), 0o600),
		os.Symlink(secret, filepath.Join(folder, "out")), os.Symlink("../secret/key", filepath.Join(folder, "file")),
		os.WriteFile(filepath.Join(folder, "good"), []byte("g"), 0o600), os.Symlink("good", filepath.Join(folder, "alias"))); err != nil {
		t.Fatal(err)
	}
	p := places(t, "file://"+folder+"/")
	b, _ := open(t, p, "file://"+folder+"/x")
	for _, key := range []string{"out/key", "file", "../secret/key", "/etc/passwd"} {
		if r, _, err := b.Read(t.Context(), key, 100); err == nil {
			_ = r.Close()
			t.Errorf("read %s", key)
		}
	}
	for _, key := range []string{"out/new", "out/deep/new", "../secret/new"} {
		if w, err := b.Create(t.Context(), key, WriteOptions{}); err == nil {
			w.Abort()
			t.Errorf("created %s", key)
		}
		if err := b.Probe(t.Context(), key, 0); err == nil {
			t.Errorf("probed %s", key)
		}
	}
	write(t, b, "file", "new") // takes the link's place
	if got := list(t, b, "**"); !slices.Equal(got, []string{"file", "good"}) {
		t.Errorf("listed %q", got)
	}
	if got, err := os.ReadFile(filepath.Join(secret, "key")); err != nil || string(got) != "s" {
		t.Errorf("outside is now %q, %v", got, err)
	}
	if names, err := os.ReadDir(secret); err != nil || len(names) != 1 {
		t.Errorf("outside has %v, %v", names, err)
	}
	if text, _ := read(t, b, "alias"); text != "g" {
		t.Errorf("a link within: %q", text)
	}
}

func TestAnEarlierAttemptCantComplete(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	b, _ := open(t, places(t, "file://"+folder), "file://"+folder+"/x")
	attempt := func(n int) *Writer {
		w, err := b.Create(t.Context(), "d/out.csv", WriteOptions{Work: "w", Attempt: n})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte{byte('0' + n)}); err != nil {
			t.Fatal(err)
		}
		return w
	}
	first, second, third := attempt(1), attempt(2), attempt(3)
	for _, w := range []*Writer{first, second} {
		if err := w.Commit(); err == nil {
			t.Error("an earlier attempt completed its object")
		}
		w.Abort()
	}
	if err := third.Commit(); err != nil {
		t.Fatal(err)
	}
	if text, _ := read(t, b, "d/out.csv"); text != "3" {
		t.Errorf("%q", text)
	}
	if names, err := os.ReadDir(filepath.Join(folder, "d")); err != nil || len(names) != 1 {
		t.Errorf("%v are left, %v", names, err)
	}
}

func TestURLsOutsideOfThePlacesAreRefused(t *testing.T) {
	t.Parallel()
	p := places(t, "file:///srv/exports/{project}, s3://reports/nightly/*?region=eu-central-1&endpoint=http://minio:9000\ngs://all").Of("sea rch")
	if got := p.String(); got != "file:///srv/exports/sea-rch/, s3://reports/nightly/, gs://all/" {
		t.Error(got)
	}
	for _, url := range []string{
		"file:///srv/exports/sea-rch/a", "s3://reports/nightly/x/y", "gs://all/x",
	} {
		if _, _, err := p.find(url); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for _, url := range []string{
		"", "x", "/srv/exports/sea-rch/a", "http://169.254.169.254/latest", "file:///srv/exports/other/a", "file:///srv/exports/sea-rch/../other/a",
		"file:///srv/exports/sea-rch/%2e%2e/other/a", "file:///srv/exports/sea-rch/..%2fother/a", "file:///srv/exports/sea-rch/.//a", "file:///srv/exports/sea-rch/a//b",
		"file://host/srv/exports/sea-rch/a", "file:srv/exports/sea-rch/a", "file:///srv/exports/sea-rchx/a", "s3://reports/nightlyx/a", "s3://reports/a", "s3://other/nightly/a",
		"s3://reports/nightly/a?endpoint=http://evil", "s3://key:secret@reports/nightly/a", "s3://reports:80/nightly/a", "s3://reports/nightly/a#x", "s3://reports/nightly/a?",
		"S4://reports/nightly/a", "azblob://reports/a", "file:///srv/exports/sea-rch/a%00b", `file:///srv/exports/sea-rch/a\b`, "mem://x/y", "s3://reports/nightly/" + strings.Repeat("a", 1000),
	} {
		_, _, err := p.find(url)
		if !refused(err) {
			t.Errorf("%s: %v", url, err)
		} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "minio") {
			t.Errorf("%s: %v shows what it must not", url, err)
		}
	}
	if _, _, err := (Places{}).find("file:///srv/exports/a"); !refused(err) {
		t.Errorf("without places: %v", err)
	}
	for _, list := range []string{"ftp://x/", "/srv", "s3://", "file://host/x", "file:///x?y=z", "s3://u:p@b/"} {
		if _, err := ParsePlaces(list); err == nil || strings.Contains(err.Error(), ":p@") {
			t.Errorf("%s: %v", list, err)
		}
	}
}

func TestSegmentsAreNeverFolders(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"": "-", "..": "-", ".": "-", "../../etc": "-..-etc", "a/b": "a-b", "été 1": "-t--1", "{batch}": "-batch-", strings.Repeat("x", 300): strings.Repeat("x", 100),
	} {
		if got := Segment(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

func TestErrorsHaveNoSignatures(t *testing.T) {
	t.Parallel()
	err := &Error{Message: "can't be written", Err: errors.New(`Put "https://a.blob.core.windows.net/c/k?sv=1&sig=SECRET": refused, GET https://x/?sig=SECRET`)}
	if got := err.Error(); strings.Contains(got, "SECRET") || !strings.Contains(got, "windows.net/c/k?…\": refused") {
		t.Error(got)
	}
}

func FuzzMatches(f *testing.F) {
	f.Add("**/x/*.c", "a/b/x/y.c")
	f.Add("**", "")
	f.Add("a/**/**/b", "a/b")
	f.Fuzz(func(t *testing.T, pattern, key string) {
		if len(pattern) > 30 || len(key) > 30 {
			t.Skip()
		}
		p, k := strings.Split(pattern, "/"), strings.Split(key, "/")
		if got, want := matches(p, k), slowly(p, k); got != want {
			t.Errorf("%q, %q: %v, want %v", pattern, key, got, want)
		}
	})
}

// slowly is matches by definition.
func slowly(p, k []string) bool {
	switch {
	case len(p) == 0:
		return len(k) == 0
	case p[0] == "**":
		return slowly(p[1:], k) || len(k) > 0 && slowly(p, k[1:])
	case len(k) == 0:
		return false
	}
	ok, err := filepath.Match(p[0], k[0])
	return ok && err == nil && slowly(p[1:], k[1:])
}
