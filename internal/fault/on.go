//go:build chaos

package fault

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// action is what happens at the nth passing of a point.
type action struct {
	nth   int
	kill  bool
	sleep time.Duration
	skew  time.Duration
}

var (
	mu     sync.Mutex
	armed  = map[string]action{}
	passed = map[string]int{}
	skew   atomic.Int64 // of Now, in nanoseconds
)

// Arm reads what is to happen: entries NAME:N=ACTION, separated by commas, where N counts the passings of the point and is 1 when left
// out. ACTION is kill, which ends the process with SIGKILL; sleep:DURATION; or skew:DURATION, which sets the wall clock of [Now] off by
// as much. The name start is passed by Arm itself.
func Arm(spec string) error {
	mu.Lock()
	for entry := range strings.SplitSeq(spec, ",") {
		if entry == "" {
			continue
		}
		name, a, err := parse(entry)
		if err != nil {
			mu.Unlock()
			return err
		}
		armed[name] = a
	}
	mu.Unlock()
	Point("start")
	return nil
}

func parse(entry string) (name string, a action, err error) {
	where, what, _ := strings.Cut(entry, "=")
	name, nth, counted := strings.Cut(where, ":")
	a.nth = 1
	if counted {
		if a.nth, err = strconv.Atoi(nth); err != nil {
			return name, a, fmt.Errorf("fault: %q: %w", entry, err)
		}
	}
	verb, arg, _ := strings.Cut(what, ":")
	switch verb {
	case "kill":
		a.kill = true
	case "sleep":
		a.sleep, err = time.ParseDuration(arg)
	case "skew":
		a.skew, err = time.ParseDuration(arg)
	default:
		err = fmt.Errorf("want kill, sleep:DURATION or skew:DURATION")
	}
	if err != nil {
		return name, a, fmt.Errorf("fault: %q: %w", entry, err)
	}
	return name, a, nil
}

// Point is a place to die at.
func Point(name string) {
	mu.Lock()
	a, ok := armed[name]
	passed[name]++
	due := ok && passed[name] == a.nth
	mu.Unlock()
	switch {
	case !due:
	case a.kill:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way: nothing may follow
	case a.sleep > 0:
		<-time.After(a.sleep)
	default:
		skew.Store(int64(a.skew))
	}
}

// Now is the wall clock, off by what a point has set.
func Now() time.Time { return time.Now().Add(time.Duration(skew.Load())) }
