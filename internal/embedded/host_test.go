package embedded

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestSweepTakesOnlyWhatNobodyUses(t *testing.T) {
	t.Parallel()
	parent := t.TempDir()
	old := time.Now().Add(-2 * sweepAge)
	make := func(name string, lock bool, age time.Time) (dir string, held *os.File) {
		dir = filepath.Join(parent, name)
		if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
			t.Fatal(err)
		}
		held, err := tryLock(filepath.Join(dir, lockName))
		if err != nil {
			t.Fatal(err)
		}
		if !lock {
			held.Close()
		}
		if err := os.Chtimes(dir, age, age); err != nil {
			t.Fatal(err)
		}
		return dir, held
	}
	left, _ := make(scratchPrefix+"left", false, old)
	used, held := make(scratchPrefix+"used", true, old)
	defer held.Close()
	young, _ := make(scratchPrefix+"young", false, time.Now())
	other, _ := make("somebody-elses", false, old)
	sweep(parent)
	for dir, want := range map[string]bool{left: false, used: true, young: true, other: true} {
		if _, err := os.Stat(dir); (err == nil) != want {
			t.Errorf("%s: there is %t, want %t", filepath.Base(dir), err == nil, want)
		}
	}
}

func TestLockIsExclusiveAndWaitEnds(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), lockName)
	held, err := tryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tryLock(path); !errors.Is(err, errLocked) {
		t.Errorf("got %v, want %v", err, errLocked)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := waitLock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

func TestRunDirIsBesideTheModule(t *testing.T) {
	t.Parallel()
	got, err := runDir("")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(got), "go.mod")); err != nil || filepath.Base(got) != ".run" {
		t.Errorf("got %s, %v", got, err)
	}
}

// A folder in the shared /var/tmp that somebody else could write to isn't used.
func TestForeignSpareFolderIsRefused(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("/var/tmp", "embedded-foreign-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := makeBase(dir); err != nil {
		t.Errorf("our own: %v", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := makeBase(dir); err == nil {
		t.Error("a folder that everybody can write to was taken")
	}
}
