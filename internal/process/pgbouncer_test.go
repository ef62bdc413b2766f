package process_test

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"batchwright/internal/process"
	"batchwright/internal/queue/queuetest"
	"batchwright/internal/store/storetest"
)

// pgbouncer starts a PgBouncer in transaction mode before the database at url, with fewer connections to it than a worker opens, and returns the
// URL through it. The test is skipped where there is none.
func pgbouncer(t *testing.T, direct string) string {
	t.Helper()
	binary, err := exec.LookPath("pgbouncer")
	if err != nil {
		t.Skip("no pgbouncer here")
	}
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	name := strings.Trim(u.Path, "/")
	config := fmt.Sprintf(`[databases]
%s = host=%s port=%s dbname=%[1]s user=%[4]s password=%[5]s
[pgbouncer]
listen_addr = %[6]s
listen_port = %[7]s
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 6
max_client_conn = 200
`, name, u.Hostname(), u.Port(), u.User.Username(), password, host, port)
	if os.Geteuid() == 0 { // it refuses to stay root
		config += "user = nobody\n"
	}
	file := filepath.Join(t.TempDir(), "pgbouncer.ini")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-q", file)
	cmd.Stderr = logTo{t}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	await(t, "PgBouncer", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	return (&url.URL{Scheme: "postgres", User: u.User, Host: addr, Path: u.Path}).String()
}

func TestBehindPgBouncer(t *testing.T) {
	t.Parallel()
	direct := storetest.URL(t)
	env := map[string]string{"DATABASE_URL": pgbouncer(t, direct), "DATABASE_DIRECT_URL": direct, "REDIS_URL": queuetest.URL(t)}
	getenv := func(name string) string { return env[name] }
	if _, err := process.Migrate(t.Context(), getenv); err != nil {
		t.Fatal(err)
	}
	s := start(t, env)
	s.run(t, process.Worker)
	s.saveTemplate(t, blurb)
	lines := products(3000)
	for _, want := range []string{"miss", "result_hit"} {
		b := s.finish(t, accepted(t, s.generate(t, "", lines)).ID)
		got := map[string]int64{"miss": b.Stats.Cache.Miss, "result_hit": b.Stats.Cache.ResultHit}
		if b.State != "completed" || b.Stats.Jobs.Succeeded != 3000 || got[want] != 3000 {
			t.Errorf("%+v: want 3000 jobs, each a %s", b, want)
		}
		if r := s.results(t, b.ID); len(r) != 3000 {
			t.Errorf("%d results", len(r))
		}
	}
	if n := storetest.Scalar[int64](t, direct, `select count(*) from calls where state <> 'settled'`); n != 0 {
		t.Errorf("%d calls without an outcome", n)
	}
	if r := s.do(t, http.MethodGet, "/readyz", "", nil); r.status != http.StatusOK {
		t.Errorf("readyz: %s", r.body)
	}
}
