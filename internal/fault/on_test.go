//go:build chaos

package fault

import (
	"testing"
	"time"
)

func TestPointActsOnItsPassing(t *testing.T) {
	if err := Arm("here:2=skew:3h,there=kill"); err != nil {
		t.Fatal(err)
	}
	Point("here")
	if d := time.Until(Now()); d > time.Minute {
		t.Errorf("the clock is off by %s after the first passing", d)
	}
	Point("here")
	if d := time.Until(Now()); d < 2*time.Hour {
		t.Errorf("the clock is off by %s after the second passing, want 3 h", d)
	}
}

func TestArmRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, spec := range []string{"here", "here=die", "here:x=kill", "here=sleep:long"} {
		if Arm(spec) == nil {
			t.Errorf("%q is accepted", spec)
		}
	}
}
