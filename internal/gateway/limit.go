package gateway

import (
	"context"
	"time"
)

// Limit bounds what all processes together send in a minute. Zero is no bound.
type Limit struct {
	Requests int64
	Tokens   int64 // input and output
	MicroUSD int64
}

// Bound is a limit with the name under which it is shared: a provider's slug, or "slug/model".
type Bound struct {
	Name string
	Limit
}

// Limiter shares limits between processes. Its methods are safe for concurrent use.
type Limiter interface {
	// Reserve takes room for one request and for a under every bound, or takes nothing and returns how long to wait
	// before asking again, at least a millisecond. A call that is larger than a bound is let through when nothing
	// else is reserved under it: it could never run otherwise.
	Reserve(ctx context.Context, bounds []Bound, a Amount) (r Reservation, wait time.Duration, err error)
	// Settle puts what was used in the place of what was reserved. It is called once a reservation.
	Settle(ctx context.Context, r Reservation, used Amount) error
}

// Reservation is room taken. It is returned to the Limiter it came from.
type Reservation struct {
	Bounds []Bound
	Amount Amount
	At     time.Time // the Limiter's clock
}
