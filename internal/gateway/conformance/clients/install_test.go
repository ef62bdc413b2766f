//go:build clients

package clients

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

const (
	nodeVersion = "22.23.3" // the oldest that the Vercel AI SDK and promptfoo both run on is 22.22
	nodeMajor   = 22
	nodeMinor   = 22
)

// root is the repository's folder, from this package's.
func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// installed returns the folder of the installed clients, with the scripts in it, and the Node to run them. What is there
// already is used again as long as the versions in node/package.json are the same.
func installed(ctx context.Context, t *testing.T) (dir, node string) {
	t.Helper()
	npm, err := exec.LookPath("npm")
	if err != nil {
		t.Fatal("npm is missing: install Node.js 20 or newer with npm (Debian: apt-get install nodejs npm)")
	}
	dir = filepath.Join(root(t), ".run", "clients")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	wanted := manifest(t)
	stamp := filepath.Join(dir, "installed.json")
	if have, err := os.ReadFile(stamp); err != nil || string(have) != string(wanted) {
		if err := os.WriteFile(filepath.Join(dir, "package.json"), wanted, 0o644); err != nil {
			t.Fatal(err)
		}
		t.Log("installing the clients with npm into .run/clients; a few minutes, once")
		cmd := exec.CommandContext(ctx, npm, "install", "--omit=optional", "--ignore-scripts", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("npm install: %v\n%s\nThe clients come from registry.npmjs.org, or from the registry that npm is configured for.", err, out)
		}
		if err := os.WriteFile(stamp, wanted, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	scripts, err := filepath.Glob("node/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range scripts { // a module looks for its imports beside itself and above
		if filepath.Base(from) == "package.json" {
			continue
		}
		raw, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(from)), raw, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if node = filepath.Join(dir, "node_modules", platform("node-"), "bin", "node"); needsNode(ctx) {
		return dir, node
	}
	if node, err = exec.LookPath("node"); err != nil {
		t.Fatal("node is missing although npm is there")
	}
	return dir, node
}

// manifest is node/package.json with the binaries of this machine: npm would take them for optional, as which promptfoo
// has some hundred megabytes more.
func manifest(t *testing.T) []byte {
	t.Helper()
	raw, err := os.ReadFile("node/package.json")
	if err != nil {
		t.Fatal(err)
	}
	var m struct {
		Name         string            `json:"name"`
		Private      bool              `json:"private"`
		Type         string            `json:"type"`
		Dependencies map[string]string `json:"dependencies"`
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	libsql := platform("@libsql/")
	if runtime.GOOS == "linux" {
		libsql += "-gnu"
	}
	m.Dependencies[libsql] = m.Dependencies["libsql"]
	if needsNode(t.Context()) {
		m.Dependencies[platform("node-")] = nodeVersion
	}
	out, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// platform ends a package's name as npm's packages of binaries do.
func platform(name string) string {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	return name + runtime.GOOS + "-" + arch
}

// needsNode reports whether the machine's Node is missing or too old.
func needsNode(ctx context.Context) bool {
	out, err := exec.CommandContext(ctx, "node", "--version").Output()
	major, rest, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(string(out)), "v"), ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return err != nil || a < nodeMajor || a == nodeMajor && b < nodeMinor
}
