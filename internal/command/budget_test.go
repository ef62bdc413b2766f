package command

import "testing"

func TestAmountsAreReadExactly(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int64{"25": 25_000_000, "0.50": 500_000, "0": 0, ".000001": 1, "9000000000000": 9_000_000_000_000_000_000} {
		if got, err := micros(in); err != nil || got != want {
			t.Errorf("%s: %d, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "-1", "1/3", "1e9", "0.0000001", "5 USD", "99999999999999999999", "1.2.3"} {
		if got, err := micros(in); err == nil {
			t.Errorf("%s: %d", in, got)
		}
	}
}
