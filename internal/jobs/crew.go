package jobs

import (
	"sync"
	"time"
)

// crew runs functions side by side on goroutines that are used again. A job's call goes deep, and growing a fresh stack to that depth
// for each job was an eighth of a worker's CPU.
type crew struct {
	idle chan func()
	quit chan struct{}
	all  sync.WaitGroup
}

// crewPatience is how long a goroutine waits for its next job.
const crewPatience = 5 * time.Second

func newCrew() *crew { return &crew{idle: make(chan func()), quit: make(chan struct{})} }

// do runs f at once, on an idle goroutine if there is one.
func (c *crew) do(f func()) {
	select {
	case c.idle <- f:
	default:
		c.all.Go(func() { c.run(f) })
	}
}

func (c *crew) run(f func()) {
	patience := time.NewTimer(crewPatience)
	defer patience.Stop()
	for {
		f()
		patience.Reset(crewPatience)
		select {
		case f = <-c.idle:
		case <-patience.C:
			return
		case <-c.quit:
			return
		}
	}
}

// stop ends the goroutines once what they run has ended. Nothing is done after it.
func (c *crew) stop() {
	close(c.quit)
	c.all.Wait()
}
