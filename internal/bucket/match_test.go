package bucket

import (
	"slices"
	"testing"
)

// TestMatchIsWhatListYields: whoever lists several patterns and wants each object once relies on it.
func TestMatchIsWhatListYields(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys := []string{"a.md", "b.txt", "sub/a.md", "sub/deep/c.md", "sub/deep/d [1].md"}
	at := places(t, "file://"+dir+"/")
	b, _ := open(t, at, "file://"+dir+"/")
	for _, key := range keys {
		w, err := b.Create(t.Context(), key, WriteOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
	}
	for _, pattern := range []string{"", "sub/", "*.md", "**/*.md", "sub/*", "sub/**", "sub/?.md", "**/[cd]*.md", "b.txt", "*.none"} {
		var listed []string
		for o, err := range b.List(t.Context(), pattern) {
			if err != nil {
				t.Fatal(err)
			}
			listed = append(listed, o.Key)
		}
		for _, key := range keys {
			if got, want := Match(pattern, key), slices.Contains(listed, key); got != want {
				t.Errorf("%q, %q: match %v, listed %v", pattern, key, got, want)
			}
		}
	}
	place, key, err := at.Locate("file://" + dir + "/sub/*.md")
	if err != nil || place != "file://"+dir+"/" || key != "sub/*.md" || !IsPattern(key) || IsPattern("sub/a.md") || !IsPattern("sub/") {
		t.Errorf("%q, %q, %v", place, key, err)
	}
	if _, _, err := at.Locate("file:///etc/passwd"); err == nil {
		t.Error("a URL outside of all places was located")
	}
}
