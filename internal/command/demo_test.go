package command

import (
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"batchwright/internal/client"
	"batchwright/internal/process"
	"batchwright/internal/queue/queuetest"
	"batchwright/internal/store/storetest"
)

// The second time the database is a used one, as with a DATABASE_URL of the user's own: even the first run has hits then.
func TestDemo(t *testing.T) {
	t.Parallel()
	env := map[string]string{"DATABASE_URL": storetest.URL(t), "REDIS_URL": queuetest.URL(t)}
	t.Cleanup(http.DefaultClient.CloseIdleConnections) // of the readiness checks
	for i := range 2 {
		code, out, errs := run(t, env, "", "demo", "--examples", filepath.Join("..", "..", "examples"))
		if code != exitDone {
			t.Fatalf("run %d: got %d, %s\n%s", i, code, errs, out)
		}
		for _, want := range []string{
			`Template product-blurb@1 saved from \S+product-blurb\.json\.`,
			`documents +12/12 jobs  completed, 0 calls, 12 result hits, \$0`,
			`products +40/40 jobs  completed, 0 calls, 40 result hits, \$0`,
			`minutes-product-coun\S+ +\S.*  local +(miss|result_hit) `,
			`sku-1001  \[simulated\] .*  simulator  `,
			`40 jobs +\(30 more not shown\) `,
			`documents  second +12 +12 +0 +0 +0 +\$0 `,
			`products   second +40 +40 +0 +0 +0 +\$0 `,
			`100 % hits, 0 calls, \$0`,
			`from reports\.batches`,
			`documents, second run +12 +12 +0 +0 +0 +0 +0 +0`,
			`from reports\.jobs`,
			`generate +result_hit +simulator `,
			`from reports\.daily_costs`,
			`extractive summarizer`,
			`: simulated\.`,
			`Done\.`,
		} {
			if !regexp.MustCompile(want).MatchString(out) {
				t.Errorf("run %d: nothing matches %s", i, want)
			}
		}
		if n := strings.Count(out, ", first run "); n != 2 {
			t.Errorf("run %d: the report has %d first runs", i, n)
		}
		ownSummaries(t, out)
		if t.Failed() {
			t.Fatal(out)
		}
	}
}

// ownSummaries checks that no two documents have the same summary. Once all had that of the last one, because they shared
// a buffer on their way in.
func ownSummaries(t *testing.T, out string) {
	t.Helper()
	seen := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^  (\S+)  +(\S.*?)  +[\d,]+  +[\d,]+  local `).FindAllStringSubmatch(out, -1) {
		if other, ok := seen[row[2]]; ok {
			t.Errorf("%s and %s have the same summary: %s", other, row[1], row[2])
		}
		seen[row[2]] = row[1]
	}
	if len(seen) != 12 {
		t.Errorf("got %d summaries", len(seen))
	}
}

func TestExamplesAreFoundAbove(t *testing.T) {
	t.Parallel()
	dir, err := findExamples("")
	if err != nil || dir != filepath.Join("..", "..", "examples") {
		t.Errorf("got %q, %v", dir, err)
	}
}

func ran(hits, calls, cost int64, outputs ...string) outcome {
	o := outcome{title: "products", batch: batch("completed", 2, 2, 0)}
	o.batch.Stats.Cache.ResultHit, o.batch.Stats.Calls, o.batch.Stats.CostMicroUSD = hits, calls, &cost
	for _, text := range outputs {
		o.results = append(o.results, client.Result{JobID: "b-1", Output: []byte(text)})
	}
	return o
}

func TestDemoFailsUnlessTheCacheAnswersAll(t *testing.T) {
	t.Parallel()
	first := []outcome{ran(0, 2, 9, `"a"`, `"b"`)}
	if err := fromCache(first, []outcome{ran(2, 0, 0, `"a"`, `"b"`)}); err != nil {
		t.Error(err)
	}
	unknown := ran(2, 0, 0, `"a"`, `"b"`)
	unknown.batch.Stats.CostMicroUSD = nil
	for want, second := range map[string]outcome{
		"demo: the second run of products should cost nothing, but had 1 result hit of 2 jobs, 1 call and cost $0.000004": ran(1, 1, 4, `"a"`, `"b"`),
		"demo: the second run of products should cost nothing, but had 2 result hits of 2 jobs, 0 calls and cost unknown": unknown,
		"demo: the two runs of products have 2 and 1 results":                                                             ran(2, 0, 0, `"a"`),
		"demo: the second run's answer to b-1 differs from the first one's":                                               ran(2, 0, 0, `"a"`, `"c"`),
	} {
		if err := fromCache(first, []outcome{second}); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	failed := ran(0, 2, 9)
	failed.batch.Stats.Jobs = client.JobCounts{Succeeded: 1, Failed: 1}
	failed.results = []client.Result{{JobID: "b-1"}, {JobID: "b-2", Error: &client.Failure{Class: "auth", Message: "no key"}}}
	if err := succeeded([]outcome{failed}); err == nil || !strings.HasSuffix(err.Error(), "the first failure is of b-2: no key") {
		t.Errorf("got %v", err)
	}
}

func TestWelcomeKeepsTheUsersPasswords(t *testing.T) {
	t.Parallel()
	r := process.Running{APIURL: "http://127.0.0.1:8080", DatabaseURL: "postgres://u:secret@h/db", RedisURL: "redis://:private@127.0.0.1:1/0", APIKey: "bw_key"}
	given := map[string]string{"DATABASE_URL": r.DatabaseURL}
	text := welcome(func(name string) string { return given[name] }, r)
	for _, want := range []string{"http://127.0.0.1:8080/openapi.json", "postgres://u:xxxxx@h/db", "redis://:private@127.0.0.1:1/0", "BATCHWRIGHT_API_KEY=bw_key", "curl -sS "} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing in\n%s", want, text)
		}
	}
}
