package bucket

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob://
	_ "gocloud.dev/blob/gcsblob"   // gs://
	_ "gocloud.dev/blob/s3blob"    // s3://
	"gocloud.dev/gcerrors"
)

// cloud is a bucket of an object storage. Credentials are what the storage's own library finds: its environment variables and files, or the
// machine's role.
type cloud struct{ bucket *blob.Bucket }

const (
	uploadPart  = 16 << 20 // bytes of an upload that are held and sent at once: S3 takes 10,000 of them, 156 GiB
	uploadParts = 2        // at a time
)

func openCloud(ctx context.Context, at place) (*cloud, error) {
	u := at.scheme + "://" + at.host
	if at.query != "" {
		u += "?" + at.query
	}
	b, err := blob.OpenBucket(ctx, u)
	if err != nil {
		return nil, (&cloud{}).explain(err, "can't be reached")
	}
	return &cloud{b}, nil
}

func (c *cloud) close() error { return c.bucket.Close() }

func (c *cloud) list(ctx context.Context, _, prefix string) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		all := c.bucket.List(&blob.ListOptions{Prefix: prefix})
		for {
			o, err := all.Next(ctx)
			if errors.Is(err, io.EOF) {
				return
			}
			if err != nil {
				yield(Object{}, err)
				return
			}
			if !o.IsDir && !yield(Object{Key: o.Key, Size: o.Size, ModTime: o.ModTime.Truncate(time.Second), MD5: o.MD5}, nil) {
				return
			}
		}
	}
}

func (c *cloud) read(ctx context.Context, key string) (io.ReadCloser, Object, error) {
	a, err := c.bucket.Attributes(ctx, key)
	if err != nil {
		return nil, Object{}, err
	}
	r, err := c.bucket.NewReader(ctx, key, nil)
	if err != nil {
		return nil, Object{}, err
	}
	return r, Object{Key: key, Size: r.Size(), ModTime: a.ModTime.Truncate(time.Second), MD5: a.MD5}, nil // whole seconds are all that some tell here
}

// upload is an object that the storage completes when it is closed, unless its context has ended by then.
type upload struct {
	*blob.Writer
	cancel context.CancelFunc
	done   bool
}

func (c *cloud) create(ctx context.Context, key string, o WriteOptions) (sink, error) {
	ctx, cancel := context.WithCancel(ctx)
	w, err := c.bucket.NewWriter(ctx, key, &blob.WriterOptions{ContentType: o.ContentType, DisableContentTypeDetection: o.ContentType == "",
		BufferSize: uploadPart, MaxConcurrency: uploadParts})
	if err != nil {
		cancel()
		return nil, err
	}
	return &upload{Writer: w, cancel: cancel}, nil
}

func (u *upload) commit() error {
	u.done = true
	defer u.cancel()
	return u.Close()
}

func (u *upload) abort() {
	if u.done {
		return
	}
	u.done = true
	u.cancel()
	_ = u.Close()
}

func (c *cloud) probe(ctx context.Context, folder string) error {
	if err := c.bucket.WriteAll(ctx, folder+probeName, []byte("batchwright tried whether it may write here\n"), nil); err != nil {
		return err
	}
	_ = c.bucket.Delete(ctx, folder+probeName) // whoever may write and not remove can export
	return nil
}

func (c *cloud) explain(err error, verb string) error {
	why := "the storage can't be reached, or refuses; the server's log says why"
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		why = "the bucket or object does not exist"
	case gcerrors.PermissionDenied:
		why = "the server's credentials have no permission for it"
	case gcerrors.DeadlineExceeded:
		why = "the storage did not answer in time"
	default:
		var coded interface{ ErrorCode() string } // as AWS's errors have it
		if errors.As(err, &coded) && isWord(coded.ErrorCode()) {
			why = "the storage answers " + coded.ErrorCode()
		}
	}
	return &Error{Message: verb + ": " + why, Err: err}
}

func isWord(s string) bool {
	for _, r := range s {
		if (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return false
		}
	}
	return s != "" && len(s) < 60
}
