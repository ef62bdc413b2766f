package process_test

import (
	"bytes"
	"mime/multipart"
	"net/http"
	"strings"
	"testing"

	"batchwright/internal/document/documenttest"
	"batchwright/internal/store/storetest"
)

const paper = "The storm reached the coast in the night. Two harbours were closed until noon. Nobody was hurt, said the mayor of the town."

type file struct {
	name string
	data []byte
}

// papers are documents of all formats that say the same.
func papers() []file {
	return []file{
		{"a.txt", []byte(paper)}, {"a.md", []byte("# Storm\n\n" + paper)}, {"a.html", []byte("<!doctype html><title>Storm</title><p>" + paper)},
		{"a.pdf", documenttest.PDF("Storm", strings.SplitAfter(paper, ". "))},
		{"a.docx", documenttest.DOCX("<w:p><w:r><w:t>" + paper + "</w:t></w:r></w:p>")},
		{"a.pptx", documenttest.PPTX([]string{`<p:sld xmlns:p="p" xmlns:a="a"><p:sp><a:p><a:r><a:t>` + paper + `</a:t></a:r></a:p></p:sp></p:sld>`})},
		{"a.xlsx", documenttest.XLSX(`<row><c t="s"><v>0</v></c><c><v>2</v></c></row>`, []string{paper})},
		{"a.csv", []byte("what,where\n\"" + paper + "\",coast\n")},
		{"a.eml", []byte("From: a@example.com\nMessage-ID: <1@example.com>\nSubject: Storm\n\n" + paper)},
		{"a.epub", documenttest.EPUB("Storm", []string{"<p>" + paper + "</p>"})},
		{"a.rtf", []byte(`{\rtf1\ansi ` + paper + `\par}`)},
	}
}

func (s *system) upload(t *testing.T, files ...file) batch {
	t.Helper()
	return s.finish(t, s.send(t, `{"kind":"summarize","route":"local/extractive"}`, files...).ID)
}

// send submits documents as a batch with these options.
func (s *system) send(t *testing.T, options string, files ...file) batch {
	t.Helper()
	var body bytes.Buffer
	w := multipart.NewWriter(&body)
	if err := w.WriteField("batch", options); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		part, err := w.CreateFormFile("documents", f.name)
		if err == nil {
			_, err = part.Write(f.data)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return accepted(t, s.do(t, http.MethodPost, "/v1/batches", w.FormDataContentType(), &body))
}

type jobReply struct {
	Status   string
	Error    *struct{ Class, Message string }
	Document *struct {
		Format, Extractor, Title string
		Pages, Characters        int
		Letters                  float64
	}
}

func (s *system) job(t *testing.T, batch, index string) (out jobReply) {
	t.Helper()
	s.do(t, http.MethodGet, "/v1/jobs/"+batch+"-"+index, "", nil).json(t, &out)
	return out
}

func TestDocumentsOfAllFormatsAreSummarized(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"PDFTOTEXT": "off"})
	files := papers()
	b := s.upload(t, files...)
	if b.State != "completed" || b.Stats.Jobs.Succeeded != int64(len(files)) {
		t.Errorf("%+v", b)
	}
	for _, r := range s.results(t, b.ID) {
		if !strings.Contains(string(r.Output), "storm reached the coast") {
			t.Errorf("%+v", r)
		}
	}
	if j := s.job(t, b.ID, "4"); j.Document == nil || j.Document.Format != "pdf" || j.Document.Extractor != "pdf" || j.Document.Title != "Storm" ||
		j.Document.Pages != 1 || j.Document.Characters != len(paper) || j.Document.Letters < 0.9 {
		t.Errorf("%+v", j.Document)
	}

	// Files that were saved anew, by other programs and under other names, have other bytes and the same words.
	again := s.upload(t, file{"b.docx", documenttest.DOCX("<w:p><w:r><w:t>"+paper+"</w:t></w:r></w:p>", documenttest.Entry{Name: "docProps/app.xml", Body: "<x/>"})},
		file{"b.rtf", []byte(`{\rtf1\ansi{\*\generator Other;}` + paper + `\par}`)}, files[0])
	if again.Stats.Cache.ResultHit != 3 || again.Stats.Calls != 0 {
		t.Errorf("the same words: %+v", again.Stats)
	}

	// A text is made once, and goes with its document.
	texts := func(where string) int64 {
		return storetest.Scalar[int64](t, s.env["DATABASE_URL"], "select count(*) from texts where "+where)
	}
	if n := texts("true"); n != int64(len(files))+2 {
		t.Errorf("%d texts of %d documents", n, len(files)+2)
	}
	if n := texts("body is null"); n != 2 {
		t.Errorf("%d texts without a body: plain text and markdown have none", n)
	}
	for _, id := range []string{b.ID, again.ID} {
		if r := s.do(t, http.MethodDelete, "/v1/batches/"+id, "", nil); r.status != http.StatusNoContent {
			t.Errorf("delete: %d %s", r.status, r.body)
		}
	}
	if n := texts("true"); n != 0 {
		t.Errorf("%d texts are left of purged documents", n)
	}
}

func TestADocumentWithoutTextFailsAloneAndMakesNoCall(t *testing.T) {
	t.Parallel()
	s := start(t, map[string]string{"PDFTOTEXT": "off", "EXTRACT_TIMEOUT": "1s", "EXTRACT_PROCESSES": "1"})
	loop := documenttest.RawPDF("/Root 1 0 R", "<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1/Parent 3 0 R>>", "<</Type/Pages/Kids[2 0 R]/Count 1/Parent 2 0 R>>")
	b := s.upload(t, file{"scan.pdf", documenttest.PDF("", nil, nil, nil)}, file{"loop.pdf", loop}, file{"cut.docx", documenttest.DOCX("&bomb;")},
		file{"ok.txt", []byte(paper)}, file{"few.txt", []byte("a b c 1 2 3")})
	if b.State != "completed" || b.Stats.Jobs.Succeeded != 1 || b.Stats.Jobs.Failed != 4 || b.Stats.Calls != 1 {
		t.Errorf("%+v", b)
	}
	for index, want := range map[string][2]string{
		"1": {"no_text", "the document has no text: "}, "2": {"invalid_request", "timeout: the document can't be read within 1s"},
		"3": {"invalid_request", "damaged: "}, "5": {"no_text", "11 characters, 50% of them letters"},
	} {
		j := s.job(t, b.ID, index)
		if j.Status != "failed" || j.Error == nil || j.Error.Class != want[0] || !strings.Contains(j.Error.Message, want[1]) {
			t.Errorf("job %s: %+v, want %v", index, j.Error, want)
		}
	}
	if j := s.job(t, b.ID, "1"); j.Document == nil || j.Document.Pages != 3 || !strings.Contains(j.Error.Message, "3 pages, 0 characters, 0% of them letters") {
		t.Errorf("%+v %+v", j.Error, j.Document)
	}
}
