package chaos

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	goleak.VerifyTestMain(m)
}

// TestNothingIsLostOrPaidForTwiceUnderFaults is a short make chaos: three seeds at once, of real processes.
func TestNothingIsLostOrPaidForTwiceUnderFaults(t *testing.T) {
	t.Parallel()
	if os.Getenv("TEST_DATABASE_URL") == "" {
		t.Skip("TEST_DATABASE_URL is not set: run the tests with make test, on a machine that can start servers")
	}
	var out strings.Builder
	code := Main(t.Context(), []string{"-scenario", random, "-seeds", "3", "-first", "1"}, &out, &out)
	if text := out.String(); code != 0 || !strings.HasSuffix(text, "\n3 passed, 0 failed\n") {
		t.Errorf("exit code %d:\n%s", code, text)
	}
}

func TestASeedIsOnePlan(t *testing.T) {
	t.Parallel()
	for seed := range uint64(200) {
		a, b := strings.Join(draw(seed).lines(), "\n"), strings.Join(draw(seed).lines(), "\n")
		if a != b {
			t.Fatalf("seed %d made two plans:\n%s\n\n%s", seed, a, b)
		}
	}
}

// TestEveryFaultIsDrawn holds the random plans to their promise: in a few hundred seeds each fault and each point to die at has its turn.
func TestEveryFaultIsDrawn(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for seed := range uint64(600) {
		all.WriteString(strings.Join(draw(seed).lines(), "\n"))
	}
	want := append([]string{"vanishes", "twice at once", "cancel after", "pause after", "resume after", "retry after", "=skew:", "=sleep:", "summarize", "pipeline", "open, in ",
		"never comes back", "expires after", "a budget of", "deleted after", "period day", "period month", "a webhook for", hookLink, "run again", "run now after", "overlap skip", "overlap queue", "overlap cancel_older"}, misbehaviour...)
	for act := range acts {
		want = append(want, act+" ")
	}
	for _, names := range points {
		want = append(want, names...)
	}
	want = append(want, tickPoints...)
	for _, w := range want {
		if !strings.Contains(all.String(), w) {
			t.Errorf("no plan has %q", w)
		}
	}
}

func TestTheProviderKeepsItsBooks(t *testing.T) {
	t.Parallel()
	for _, how := range append([]string{good}, misbehaviour...) {
		p := newProvider(1, []spell{{until: 1 << 40, kind: how, share: 1}}, 2)
		if got, _ := p.draw("t1", first); got != how {
			t.Errorf("drawn is %q, want %q", got, how)
		}
		close(p.calm)
		if got, _ := p.draw("t1", first); got != good {
			t.Errorf("drawn in good weather is %q", got)
		}
	}
}

func TestASummaryTellsWhatItCovers(t *testing.T) {
	t.Parallel()
	l := load{kind: summarize}
	prompt := func(text string) []byte { return []byte("The reader wants to know: key-2 " + text) }
	text := documentOf("d7+1")
	part, ok := understand(prompt(text[:len(text)/2]))
	rest, ok2 := understand(prompt(text[len(text)/2:]))
	if !ok || !ok2 || part.key != 2 || part.tag != "d7" || part.id == rest.id {
		t.Fatalf("understood is %+v and %+v", part, rest)
	}
	for _, c := range []struct {
		prompt string
		whole  bool
	}{
		{part.answer + rest.answer, true}, {rest.answer + part.answer, true}, {part.answer, false}, {part.answer + part.answer, false},
	} {
		if q, ok := understand(prompt(c.prompt)); !ok || (q.answer == l.answer("d7+1")) != c.whole {
			t.Errorf("the summary of %q is %q", c.prompt, q.answer)
		}
	}
	if q, ok := understand(prompt(part.answer + "It has #1-2 of d8.")); ok {
		t.Errorf("a prompt of two documents was understood: %+v", q)
	}
}

func TestAReceiverTakesOnlyWhatIsSigned(t *testing.T) {
	t.Parallel()
	body := `{"type":"batch.completed","timestamp":"2026-11-21T19:40:00.123Z","data":{"batch_id":"b","state":"completed"}}`
	send := func(key, body string, at time.Time) (*receiver, int) {
		r := newReceiver(1)
		r.secrets["/0/1"] = []byte("secret")
		req := httptest.NewRequest(http.MethodPost, "/0/1", strings.NewReader(body))
		h := hmac.New(sha256.New, []byte(key))
		_, _ = fmt.Fprintf(h, "msg_1.%d.%s", at.Unix(), body) // never fails
		req.Header.Set("webhook-id", "msg_1")
		req.Header.Set("webhook-timestamp", strconv.FormatInt(at.Unix(), 10))
		req.Header.Set("webhook-signature", "v1,"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
		w := httptest.NewRecorder()
		r.ServeHTTP(w, req)
		return r, w.Code
	}
	if r, code := send("secret", body, time.Now()); code != http.StatusNoContent || len(r.wrong) > 0 || r.taken["msg_1"].Data.BatchID != "b" {
		t.Errorf("a good message is answered %d: %q", code, r.wrong)
	}
	for name, r := range map[string]func() (*receiver, int){
		"of another key": func() (*receiver, int) { return send("other", body, time.Now()) },
		"of yesterday":   func() (*receiver, int) { return send("secret", body, time.Now().Add(-24*time.Hour)) },
		"cut":            func() (*receiver, int) { return send("secret", body[:20], time.Now()) },
	} {
		if r, _ := r(); len(r.wrong) != 1 || len(r.taken) > 0 {
			t.Errorf("a message %s was taken: %q", name, r.wrong)
		}
	}
}

func TestASayingNeedsItsOwnWord(t *testing.T) {
	t.Parallel()
	l := load{kind: pipeline}
	q, ok := understand([]byte("You answer key-1. Say it again: " + answerTo("t7")))
	if !ok || q.key != 1 || q.tag != "t7" || q.answer != l.answer("t7") {
		t.Errorf("understood is %+v", q)
	}
	if first, _ := understand([]byte("You answer key-1. Say the word of t7.")); first.id == q.id || first.tag != q.tag {
		t.Errorf("the first stage asks %+v, the second %+v", first, q)
	}
	if q, ok := understand([]byte("You answer key-1. Say it again: " + strings.Replace(answerTo("t7"), "t7", "t8", 1))); ok {
		t.Errorf("a word that is another's was understood: %+v", q)
	}
}
