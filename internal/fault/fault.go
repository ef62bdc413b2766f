// Package fault marks the places where a test under faults wants a process to die.
//
// A point is a call of [Point] with a name. In an ordinary build it is empty and compiles to nothing. A build with the tag chaos has
// the process kill itself there, as the power going would, or stand still for a while, when [Arm] was told so; see package chaos.
//
// [Now] is the clock by which a worker decides on its own: which price holds, how fast it is, when a slice of a budget is idle. Leases,
// retries and periods go by the database's clock, and a worker whose own is hours off must not be noticed by anybody.
package fault
