package extract

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"batchwright/internal/document"
)

var (
	update = flag.Bool("update", false, "rewrite the digests of real documents")
	corpus = flag.String("documents", "", "the folder with the packages of testdata/packages.txt; make test-documents fetches them")
)

// digests are the documents to read and what comes of it. They are not ours, so of each there is: its path, the digest of the file, who read it,
// pages, characters, the digest of title and text or the code of the error, and how the text begins.
const digests = "testdata/documents.tsv"

// TestRealDocuments reads documents that many programs have made. A file that is another one than when its digest was made says nothing, nor does a PDF
// that another version of pdftotext reads; too many of them fail the test.
func TestRealDocuments(t *testing.T) {
	t.Parallel()
	if *corpus == "" {
		t.Skip("no -documents: make test-documents fetches real documents and reads them")
	}
	var golden []string
	f, err := os.Open(digests)
	if err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		golden = append(golden, lines.Text())
	}
	_ = f.Close()
	pools := map[string]*Pool{}
	for _, tool := range tools(t) {
		p := open(t, Options{PDFToText: tool})
		pools[p.PDF()] = p
	}
	same := map[string]int{}
	for i, line := range golden {
		fields := strings.Split(line, "\t")
		path, reader := fields[0], fields[2]
		data, err := os.ReadFile(filepath.Join(*corpus, path))
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		format, err := document.Detect(path, "", data)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		p := pools["pdf"]
		if format == "pdf" {
			p = pools[reader]
		}
		if p == nil {
			t.Logf("%s: not compared, this machine has no %s", path, reader)
			continue
		}
		got := describe(t, p, path, format, data)
		if *update {
			golden[i] = got
			continue
		}
		if sum := strings.Split(got, "\t")[1]; sum != fields[1] {
			t.Logf("%s: not compared, it is another file than before", path)
			continue
		}
		same[format]++
		if got != line {
			t.Errorf("\n got %s\nwant %s", got, line)
		}
	}
	if *update {
		if err := os.WriteFile(digests, []byte(strings.Join(golden, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	total := 0
	for _, n := range same {
		total += n
	}
	t.Logf("%d documents compared: %v", total, same)
	if total < 40 || len(same) < 10 {
		t.Errorf("only %d documents of %d formats could be compared: the digests are of other versions of the packages", total, len(same))
	}
}

func describe(t *testing.T, p *Pool, path, format string, data []byte) string {
	t.Helper()
	doc, err := p.Read(t.Context(), format, data)
	sum, begin := fmt.Sprintf("%x", sha256.Sum256([]byte(doc.Title+"\x00"+doc.Text)))[:16], string([]rune(doc.Text)[:min(60, len([]rune(doc.Text)))])
	if err != nil {
		e, ok := errors.AsType[*document.Error](err)
		if !ok {
			t.Fatalf("%s: %v", path, err)
		}
		sum, doc.Extractor, doc.Figures = string(e.Code), format, e.Figures
		if format == "pdf" {
			doc.Extractor = p.PDF()
		}
	}
	return strings.Join([]string{path, fmt.Sprintf("%x", sha256.Sum256(data))[:16], doc.Extractor, fmt.Sprint(doc.Pages), fmt.Sprint(doc.Characters), sum,
		strings.Join(strings.Fields(begin), " ")}, "\t")
}

// Every format is among the real documents.
func TestRealDocumentsAreOfAllFormats(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(digests)
	if err != nil {
		t.Fatal(err)
	}
	var readers []string
	for line := range strings.Lines(string(data)) {
		readers = append(readers, strings.Split(line, "\t")[2])
	}
	for _, format := range []string{"csv", "docx", "eml", "epub", "html", "markdown", "pdf", "pptx", "rtf", "text", "xlsx"} {
		if !slices.Contains(readers, format) {
			t.Errorf("there is no real %s", format)
		}
	}
}
