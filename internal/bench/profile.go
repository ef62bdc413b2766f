package bench

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// profile runs f once more, for what the command line asks to see. A process is profiled in the first line that has it.
func (s *system) profile(ctx context.Context, name string, long time.Duration, f func(context.Context) error) error {
	wanted := map[*program]string{}
	files := map[*program]string{s.api: s.apiProfile}
	if len(s.workers) > 0 {
		files[s.workers[0]] = s.workerProfile
	}
	for p, file := range files {
		if p != nil && file != "" && !s.profiled[p.name] {
			wanted[p] = file
		}
	}
	if len(wanted) == 0 && !s.showBusy {
		return nil
	}
	g, gctx := errgroup.WithContext(ctx)
	for p, file := range wanted {
		s.profiled[p.name] = true
		url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", p.log.addr("admin ready"), int(long.Seconds())+1)
		g.Go(func() error { return fetch(gctx, url, file) })
		s.say(fmt.Sprintf("%s: profile of the %s during one more run: %s", name, p.name, file))
	}
	over := make(chan struct{})
	if s.showBusy {
		g.Go(func() error { return s.watch(gctx, name, over) })
	}
	g.Go(func() error {
		defer close(over)
		return f(gctx)
	})
	return g.Wait()
}

func fetch(ctx context.Context, url, file string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(io.LimitReader(res.Body, 256<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("profile: status %d: %.200s", res.StatusCode, strings.TrimSpace(string(b)))
	}
	if err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}

// busy lists what the other sessions of this database are at.
const busy = `select coalesce(substring(query from '-- name: (\w+)'), left(query, 40)) || case when wait_event is null then '' else ', waits for ' || wait_event end
from pg_stat_activity where datname = current_database() and state = 'active' and pid <> pg_backend_pid()`

// watch looks every few milliseconds until over, and says how many sessions each statement kept busy on average.
func (s *system) watch(ctx context.Context, name string, over <-chan struct{}) error {
	seen := map[string]int{}
	looks := 0
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-over:
			s.say(name + ": sessions busy on average over " + fmt.Sprint(looks) + " looks")
			names := slices.SortedFunc(maps.Keys(seen), func(a, b string) int { return cmp.Compare(seen[b], seen[a]) })
			for _, n := range names[:min(len(names), 20)] {
				s.say(fmt.Sprintf("  %6.3f %s", float64(seen[n])/float64(looks), n))
			}
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		rows, err := s.db.Query(ctx, busy)
		if err != nil {
			return err
		}
		looks++
		for rows.Next() {
			var statement string
			if err := rows.Scan(&statement); err != nil {
				rows.Close()
				return err
			}
			seen[statement]++
		}
		if err := rows.Err(); err != nil {
			return err
		}
	}
}
