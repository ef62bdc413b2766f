package command

import (
	"strings"
	"testing"
)

func TestSubmitTakesTheStyleOfSummaries(t *testing.T) {
	t.Parallel()
	s := &server{t: t}
	code, _, errs := run(t, s.env(), "", "submit", "--route", "r", "--length", "short", "--bullets", "--outline", "--strategy", "refine", "--audience", "engineers",
		"--params", `{"chunk_tokens":400}`, file(t, "a.txt", "text"))
	want := `"params":{"audience":"engineers","bullets":true,"chunk_tokens":400,"length":"short","outline":true,"strategy":"refine"}`
	if code != exitDone || errs != "" || !strings.Contains(s.body, want) {
		t.Errorf("got %d, %q; the server got %q", code, errs, s.body)
	}
}

func TestOutlineAndText(t *testing.T) {
	t.Parallel()
	s := &server{t: t, end: `{"outline":[{"start":0,"end":9,"level":0,"heading":"","line":"It begins."},{"start":9,"end":40,"level":2,"heading":"Costs","line":"They fell."},` +
		`{"start":40,"end":50,"level":2,"heading":"Costs","part":2,"line":"\u001b[1mAnd rose."}]}`}
	want := "0-9\tIt begins.\n9-40\t  Costs: They fell.\n40-50\t  Costs (2): [1mAnd rose.\n"
	if code, out, errs := run(t, s.env(), "", "outline", "b1-1"); code != exitDone || strings.ReplaceAll(out, "\ufffd", "") != want || errs != "" {
		t.Errorf("got %d, %q, %q", code, out, errs)
	}
	s.end = "the text"
	if code, out, errs := run(t, s.env(), "", "text", "b1-1", "--start", "3", "--end", "9"); code != exitDone || out != "the text" || errs != "" {
		t.Errorf("got %d, %q, %q", code, out, errs)
	}
	s.end = `{}`
	if code, out, errs := run(t, s.env(), "", "outline", "b1-1"); code != exitDone || out != "" || !strings.Contains(errs, "--outline") {
		t.Errorf("got %d, %q, %q", code, out, errs)
	}
}
