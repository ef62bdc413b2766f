// Package internal_test holds the repository to its layers.
package internal_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const mod = "batchwright/"

// allowed lists, for each package, what it may import from this module. Adding an edge is a design decision: say why in the commit.
var allowed = map[string][]string{
	"migrations":                     {},
	"internal/gateway":               {"internal/gateway/jsonspan", "internal/pricing", "internal/abbrev"},
	"internal/gateway/jsonspan":      {},
	"internal/gateway/gatewaytest":   {"internal/gateway"},
	"internal/gateway/redis":         {"internal/gateway"},
	"internal/gateway/server":        {"internal/fault", "internal/gateway", "internal/gateway/jsonspan", "internal/pricing", "internal/store"},
	"internal/gateway/conformance":   {"internal/gateway", "internal/gateway/gatewaytest"},
	"internal/prompt":                {},
	"internal/document":              {"internal/abbrev"},
	"internal/document/documenttest": {},
	"internal/extract":               {"internal/document"},
	"internal/abbrev":                {},
	"internal/pricing":               {},
	"internal/embedded":              {},
	"internal/programs":              {}, // for benches and tests only
	"internal/schedule":              {},
	"internal/queue":                 {},
	"internal/queue/queuetest":       {"internal/embedded"}, // where a redis-server is
	"internal/store":                 {"migrations"},
	"internal/store/storetest":       {"internal/store", "migrations"},
	"internal/jobs":                  {"internal/fault", "internal/gateway", "internal/prompt", "internal/document", "internal/pricing", "internal/schedule", "internal/source", "internal/store"}, // a round of its worker makes what is due
	"internal/webhook":               {"internal/egress", "internal/store"},
	"internal/bucket":                {},
	"internal/egress":                {},
	"internal/source":                {"internal/bucket", "internal/egress"},
	"internal/export":                {"internal/bucket", "internal/fault", "internal/jobs", "internal/report", "internal/store"}, // rows of a store, as report writes them, into a bucket
	"internal/report":                {"internal/jobs", "internal/prompt", "internal/store"},                                      // what a template's spec says decides why two runs differ
	"internal/api":                   {"internal/jobs", "internal/report", "internal/prompt", "internal/document", "internal/pricing", "internal/store", "internal/webhook"},
	"internal/process": {"internal/api", "internal/bucket", "internal/document", "internal/egress", "internal/embedded", "internal/export", "internal/extract", "internal/fault", "internal/gateway", "internal/gateway/redis", "internal/gateway/server", "internal/jobs",
		"internal/pricing", "internal/queue", "internal/source", "internal/store", "internal/webhook"},
	"internal/client":  {}, // a client of the REST API, as a stranger would write it
	"internal/command": {"internal/client", "internal/process"},
	"internal/bench": {"internal/client", "internal/document", "internal/embedded", "internal/report", "internal/gateway", "internal/gateway/server", "internal/gateway/redis", "internal/process", "internal/store", "internal/prompt",
		"internal/pricing", "internal/programs"},
	// It starts real processes; the fault points are theirs, and empty outside it.
	"internal/chaos": {"internal/client", "internal/embedded", "internal/process", "internal/programs"},
	"internal/fault": {},

	"cmd/api":         {"internal/process"},
	"cmd/worker":      {"internal/extract", "internal/process"}, // what has a pool of readers is one when started as such
	"cmd/gateway":     {"internal/process"},
	"cmd/batchwright": {"internal/command", "internal/extract"},
	"cmd/bench":       {"internal/bench", "internal/extract"},
	"cmd/chaos":       {"internal/chaos"},
}

// owners lists third-party packages that only the named ones may import. The bench measures against the bare libraries.
var owners = map[string][]string{
	"github.com/labstack/echo":                {"internal/api"},
	"github.com/hibiken/asynq":                {"internal/queue", "internal/bench"},
	"github.com/Shopify/toxiproxy":            {"internal/chaos"},
	"github.com/jackc/pgx":                    {"internal/store", "internal/store/storetest", "internal/bench"},
	"github.com/pressly/goose":                {"internal/store"},
	"github.com/redis/go-redis":               {"internal/queue/queuetest", "internal/gateway/redis", "internal/bench"},
	"github.com/maypok86/otter":               {"internal/gateway"},
	"github.com/getkin/kin-openapi":           {"internal/api"},
	"github.com/alicebob/miniredis":           {"internal/embedded"},
	"github.com/fergusstrange":                {"internal/embedded"},
	"github.com/spf13/cobra":                  {"internal/command"},
	"github.com/vbauerster/mpb":               {"internal/command"},
	"github.com/prometheus/client_golang":     {"internal/process"},
	"github.com/gowebpki/jcs":                 {"internal/prompt"},
	"github.com/tiktoken-go/tokenizer":        {"internal/prompt"},
	"github.com/robfig/cron":                  {"internal/schedule"},
	"github.com/gogs/chardet":                 {"internal/document"},
	"github.com/ledongthuc/pdf":               {"internal/document"},
	"golang.org/x/net/html":                   {"internal/document"},
	"github.com/klauspost/compress":           {"internal/api"},
	"github.com/aymanbagabas/go-udiff":        {"internal/report"},
	"github.com/parquet-go/parquet-go":        {"internal/report"},
	"gocloud.dev":                             {"internal/bucket"},
	"github.com/santhosh-tekuri/jsonschema":   {"internal/prompt"},
	"github.com/kaptinlin/jsonrepair":         {"internal/prompt"},
	"github.com/JohannesKaufmann/html-to-mar": {"internal/document"},
}

func TestLayers(t *testing.T) {
	t.Parallel()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, mod+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		pkg := strings.TrimPrefix(f[0], mod)
		ok, known := allowed[pkg]
		if !known && len(f) > 1 {
			t.Errorf("%s is not in the list of packages", pkg)
		}
		for _, imp := range f[1:] {
			if rest, ours := strings.CutPrefix(imp, mod); ours && !slices.Contains(ok, rest) {
				t.Errorf("%s must not import %s", pkg, rest)
			}
			for prefix, may := range owners {
				if strings.HasPrefix(imp, prefix) && !slices.Contains(may, pkg) {
					t.Errorf("%s must not import %s: only %s may", pkg, imp, strings.Join(may, ", "))
				}
			}
		}
	}
}
