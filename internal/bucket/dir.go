package bucket

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path"
	"strings"
	"syscall"
)

// dir is a folder of the machine. Nothing leads out of it, neither .. nor a symbolic link: [os.Root] sees to it at each step.
type dir struct{ root *os.Root }

func openDir(name string, make bool) (*dir, error) {
	root, err := os.OpenRoot(name)
	if make && errors.Is(err, fs.ErrNotExist) {
		_ = os.Mkdir(name, 0o750) // the folder that it lies in is the operator's
		root, err = os.OpenRoot(name)
	}
	if err != nil {
		return nil, (&dir{}).explain(err, "can't be reached")
	}
	return &dir{root}, nil
}

func (d *dir) close() error { return d.root.Close() }

// inside is a folder's name as os.Root and io/fs want it.
func inside(folder string) string { return path.Clean("./" + folder) }

func (d *dir) list(ctx context.Context, folder, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		err := fs.WalkDir(d.root.FS(), inside(folder), func(name string, e fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case ctx.Err() != nil:
				return ctx.Err()
			case e.IsDir() && name != "." && !strings.HasPrefix(name+"/", prefix) && !strings.HasPrefix(prefix, name+"/"):
				return fs.SkipDir
			case !e.Type().IsRegular() || !strings.HasPrefix(name, prefix):
				return nil
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) { // since it was listed
				return nil
			} else if err != nil {
				return err
			}
			if !yield(objectOf(name, info), nil) {
				return fs.SkipAll
			}
			return nil
		})
		if err != nil {
			yield(Object{}, err)
		}
	}
}

func objectOf(key string, info fs.FileInfo) Object {
	return Object{Key: key, Size: info.Size(), ModTime: info.ModTime()}
}

func (d *dir) read(_ context.Context, key string) (io.ReadCloser, Object, error) {
	// Without NONBLOCK, a FIFO would be waited for before anybody could see that it is one.
	f, err := d.root.OpenFile(key, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, Object{}, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = refuse("is not a file")
	}
	if err != nil {
		_ = f.Close()
		return nil, Object{}, err
	}
	return f, objectOf(key, info), nil
}

// file is an object that is being written under a name of its own. An earlier attempt loses its name to a later one, and can't be renamed then.
type file struct {
	*os.File
	root      *os.Root
	part, key string
	done      bool
}

func partName(key string, o WriteOptions, attempt int) string {
	folder, base := path.Split(key)
	return fmt.Sprintf("%s.%s.%s-%d%s", folder, base, o.Work, attempt, partSuffix)
}

func (d *dir) create(_ context.Context, key string, o WriteOptions) (sink, error) {
	if folder := path.Dir(key); folder != "." {
		if err := d.root.MkdirAll(folder, 0o750); err != nil {
			return nil, err
		}
	}
	if o.Work == "" {
		o.Work = rand.Text()
	}
	for n := 1; n < o.Attempt; n++ {
		_ = d.root.Remove(partName(key, o, n)) // most are not there
	}
	return d.part(key, partName(key, o, o.Attempt))
}

func (d *dir) part(key, part string) (*file, error) {
	f, err := d.root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return nil, err
	}
	return &file{File: f, root: d.root, part: part, key: key}, nil
}

func (f *file) commit() error {
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if err := f.root.Rename(f.part, f.key); err != nil {
		return err
	}
	f.done = true
	return f.syncFolder()
}

// syncFolder makes the new name last.
func (f *file) syncFolder() error {
	folder, err := f.root.Open(inside(path.Dir(f.key)))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func (f *file) abort() {
	if f.done {
		return
	}
	f.done = true
	_ = f.Close()
	_ = f.root.Remove(f.part)
}

func (d *dir) probe(_ context.Context, folder string) error {
	f, err := d.part("", folder+probeName)
	if err != nil {
		return err
	}
	_, err = f.Write([]byte("batchwright tried whether it may write here\n"))
	f.abort()
	return err
}

func (d *dir) explain(err error, verb string) error {
	var why string
	switch {
	case errors.Is(err, fs.ErrNotExist):
		why = "the folder or file does not exist on the server"
	case errors.Is(err, fs.ErrPermission):
		why = "the server has no permission for it"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		why = "the disk is full"
	case errors.Is(err, syscall.EROFS):
		why = "the file system is read-only"
	case errors.Is(err, syscall.EISDIR), errors.Is(err, fs.ErrExist):
		why = "there is a folder of this name"
	case errors.Is(err, syscall.ENOTDIR):
		why = "a part of its path is a file and no folder"
	case errors.Is(err, syscall.ENAMETOOLONG):
		why = "its name is too long"
	default:
		why = "the file system refuses, or a link leads out of the allowed folder; the server's log says which"
	}
	return &Error{Message: verb + ": " + why, Err: err}
}
