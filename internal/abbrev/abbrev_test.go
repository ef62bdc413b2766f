package abbrev

import "testing"

func TestEnds(t *testing.T) {
	t.Parallel()
	for s, want := range map[string]bool{
		"": false, ".": false, "Stop.": false, "Stop": false, "See Dr.": true, "(cf.": true, "J.": true, "Am 3.": true, "In 1999.": false,
		"z. B.": true, "wie z.B.": true, "the U.S.": true, "Is it?": false, "今天。": false, "no.": true, "NO.": true,
	} {
		if got := Ends(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
}
