//go:build !chaos

package fault

import "time"

// Arm does nothing in this build.
func Arm(string) error { return nil }

// Point does nothing in this build.
func Point(string) {}

// Now is the wall clock.
func Now() time.Time { return time.Now() }
