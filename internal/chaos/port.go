package chaos

import (
	"errors"
	"math/rand/v2"
	"net"
	"strconv"
)

// ports is a block of addresses on 127.0.0.1 that stay one run's own while what listens on them is killed and started again. They lie
// below those that the kernel hands out, and the first of them is listened on as the sign that the block is taken.
type ports struct {
	base int
	sign net.Listener
	next int
}

const (
	lowestPort = 20_000
	blocks     = 500
	blockSize  = 24
)

func takePorts() (*ports, error) {
	for range 4 * blocks {
		p := &ports{base: lowestPort + blockSize*rand.IntN(blocks)}
		var err error
		if p.sign, err = net.Listen("tcp", address(p.base)); err != nil {
			continue
		}
		if p.free() {
			return p, nil
		}
		_ = p.sign.Close()
	}
	return nil, errors.New("no block of free ports from 20000 to 32000")
}

// free tells whether nobody listens on the rest of the block.
func (p *ports) free() bool {
	for i := 1; i < blockSize; i++ {
		l, err := net.Listen("tcp", address(p.base+i))
		if err != nil {
			return false
		}
		_ = l.Close()
	}
	return true
}

// take returns the block's next port.
func (p *ports) take() int {
	p.next++
	if p.next >= blockSize {
		panic("chaos: a run has more addresses than its block of ports")
	}
	return p.base + p.next
}

func (p *ports) close() { _ = p.sign.Close() }

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
