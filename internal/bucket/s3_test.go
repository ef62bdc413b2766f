package bucket

import (
	"cmp"
	"context"
	"crypto/md5" //nolint:gosec // S3's ETag
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeS3 is as much of S3 as its client uses: objects of one bucket, uploads by parts, lists of pages of two.
type fakeS3 struct {
	mu      sync.Mutex
	objects map[string]s3Object
	parts   map[string]map[int][]byte // by upload
	uploads int
	deny    string // method that is forbidden
	signed  bool   // every request was
}

type s3Object struct {
	body []byte
	tag  string
	at   time.Time
}

func (s *fakeS3) fail(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>m</Message></Error>", code)
}

func (s *fakeS3) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // cut: nothing of it counts
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.signed = s.signed && strings.Contains(r.Header.Get("Authorization"), "Credential=")
	bucket, key, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	q := r.URL.Query()
	switch upload := q.Get("uploadId"); {
	case bucket != "reports":
		s.fail(w, http.StatusNotFound, "NoSuchBucket")
	case r.Method == s.deny:
		s.fail(w, http.StatusForbidden, "AccessDenied")
	case r.Method == http.MethodPost && q.Has("uploads"):
		s.uploads++
		id := strconv.Itoa(s.uploads)
		s.parts[id] = map[int][]byte{}
		_, _ = fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case r.Method == http.MethodPut && upload != "":
		n, _ := strconv.Atoi(q.Get("partNumber"))
		s.parts[upload][n] = body
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, n))
	case r.Method == http.MethodPost && upload != "":
		var whole []byte
		for _, n := range slices.Sorted(maps.Keys(s.parts[upload])) {
			whole = append(whole, s.parts[upload][n]...)
		}
		s.objects[key] = s3Object{whole, fmt.Sprintf(`"%x-%d"`, md5.Sum(whole), len(s.parts[upload])), time.Now()} //nolint:gosec // as above
		delete(s.parts, upload)
		_, _ = fmt.Fprintf(w, "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
	case r.Method == http.MethodDelete && upload != "":
		delete(s.parts, upload)
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		s.objects[key] = s3Object{body, fmt.Sprintf(`"%x"`, md5.Sum(body)), time.Now()} //nolint:gosec // as above
	case r.Method == http.MethodDelete:
		delete(s.objects, key)
		w.WriteHeader(http.StatusNoContent)
	case key == "" && q.Get("list-type") == "2":
		s.list(w, q.Get("prefix"), q.Get("continuation-token"))
	default:
		o, ok := s.objects[key]
		if !ok {
			s.fail(w, http.StatusNotFound, "NoSuchKey")
			return
		}
		w.Header().Set("ETag", o.tag)
		http.ServeContent(w, r, "", o.at, strings.NewReader(string(o.body)))
	}
}

func (s *fakeS3) list(w http.ResponseWriter, prefix, after string) {
	type content struct {
		Key, ETag, LastModified string
		Size                    int
	}
	var page struct {
		XMLName               xml.Name `xml:"ListBucketResult"`
		Contents              []content
		IsTruncated           bool
		NextContinuationToken string `xml:",omitempty"`
	}
	for _, key := range slices.Sorted(maps.Keys(s.objects)) {
		if !strings.HasPrefix(key, prefix) || key <= after {
			continue
		}
		if page.IsTruncated = len(page.Contents) == 2; page.IsTruncated {
			break
		}
		o := s.objects[key]
		page.Contents = append(page.Contents, content{key, o.tag, o.at.UTC().Format("2006-01-02T15:04:05.000Z"), len(o.body)})
		page.NextContinuationToken = key
	}
	if !page.IsTruncated {
		page.NextContinuationToken = ""
	}
	_ = xml.NewEncoder(w).Encode(page)
}

func newS3(t *testing.T) (*fakeS3, func(bucket string) Places) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "secret")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
	s := &fakeS3{objects: map[string]s3Object{}, parts: map[string]map[int][]byte{}, signed: true}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	return s, func(bucket string) Places {
		return places(t, "s3://"+bucket+"/nightly/?region=eu-central-1&use_path_style=true&request_checksum_calculation=when_required&response_checksum_validation=when_required&endpoint="+srv.URL)
	}
}

func TestS3(t *testing.T) {
	s, at := newS3(t)
	b, key := open(t, at("reports"), "s3://reports/nightly/results.csv")
	if key != "nightly/results.csv" {
		t.Errorf("key %q", key)
	}
	conform(t, b, "nightly/")
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uploads < 2 || !s.signed {
		t.Errorf("%d uploads by parts, signed: %v", s.uploads, s.signed)
	}
	if _, ok := s.objects["nightly/x/"+probeName]; ok {
		t.Error("the probe was left")
	}
}

func TestS3RefusalsHaveReasons(t *testing.T) {
	s, at := newS3(t)
	for _, tt := range []struct{ bucket, deny, want string }{
		{"other", "", "does not exist"},
		{"reports", http.MethodPut, "no permission"},
		{"reports", http.MethodDelete, ""}, // enough to write
	} {
		s.mu.Lock()
		s.deny = tt.deny
		s.mu.Unlock()
		b, key := open(t, at(tt.bucket), "s3://"+tt.bucket+"/nightly/x.csv")
		err := b.Probe(t.Context(), key, 0)
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s, %s forbidden: %v, want %q", tt.bucket, tt.deny, err, cmp.Or(tt.want, "none"))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	b, key := open(t, at("reports"), "s3://reports/nightly/x.csv")
	if err := b.Probe(ctx, key, 0); err == nil {
		t.Error("a probe without time succeeded")
	}
}
