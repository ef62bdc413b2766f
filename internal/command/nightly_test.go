package command

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"batchwright/internal/queue/queuetest"
	"batchwright/internal/store/storetest"
)

// The demo itself checks calls, costs and reasons of each night, and fails when one is off.
func TestNightlyPaysForWhatChangedOnly(t *testing.T) {
	t.Parallel()
	env := map[string]string{"DATABASE_URL": storetest.URL(t), "REDIS_URL": queuetest.URL(t)}
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	code, out, errs := run(t, env, "", "demo", "nightly")
	if code != exitDone {
		t.Fatalf("got %d, %s\n%s", code, errs, out)
	}
	for _, want := range []string{
		`night 1, every document +2,000 +2,000 +0 +0 +0 +2,000 +\$0\.\d+ +\$0 `,
		`night 2, 1 % edited +2,000 +20 +1,980 +0 +0 +20 +\$0\.00\d+ +\$0\.\d+ `,
		`night 3, 1 % edited, the provider is down +2,000 +40 +1,980 +0 +0 +20 `,
		`night 4, 1 % edited, another template +2,000 +2,000 +0 +0 +0 +2,000 `,
		`2,000 jobs: 1,980 same, 20 changed, 0 new, 0 gone; input of 20; cost \$0\.00\d+, was `,
		`answered_by of 20, input of 20`,
		`template of 2,000, answered_by of 20, input of 20`,
		`changed  doc-0003 .*\(input\)\n +--- before\n +\+\+\+ after\n`,
	} {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("nothing matches %s in\n%s", want, out)
		}
	}
	if strings.Contains(errs, "level=ERROR") { // such as of the diff that the demo reads the beginning of
		t.Error(errs)
	}
	if bad := storetest.Rows[string](t, env["DATABASE_URL"], `select kind || ': ' || detail from reports.ledger_check`); len(bad) > 0 {
		t.Errorf("%v", bad)
	}
}
