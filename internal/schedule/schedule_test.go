package schedule

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// expression is a cron expression that the naive implementation reads without any parser.
type expression struct {
	minute, hour, dom, month, dow []int  // nil for *; of dow, 7 is Sunday, as 0 is
	days                          string // how dow is written, when not as a list
}

func (e expression) String() string {
	field := func(values []int) string {
		if values == nil {
			return "*"
		}
		var s []string
		for _, v := range values {
			s = append(s, strconv.Itoa(v))
		}
		return strings.Join(s, ",")
	}
	days := e.days
	if days == "" {
		days = field(e.dow)
	}
	return strings.Join([]string{field(e.minute), field(e.hour), field(e.dom), field(e.month), days}, " ")
}

func (e expression) names(w time.Time) bool {
	in := func(values []int, v int) bool { return values == nil || slices.Contains(values, v) }
	if !in(e.minute, w.Minute()) || !in(e.hour, w.Hour()) || !in(e.month, int(w.Month())) {
		return false
	}
	day := in(e.dow, int(w.Weekday())) || w.Weekday() == time.Sunday && slices.Contains(e.dow, 7)
	if e.dom != nil && e.dow != nil { // as in every cron: one of both is enough
		return slices.Contains(e.dom, w.Day()) || day
	}
	return in(e.dom, w.Day()) && day
}

// naive steps through the minutes of a stretch of time and looks at the clock each time. It knows of no offsets and no transitions.
func naive(e expression, zone *time.Location, from, to time.Time) (due []time.Time) {
	at := from.Add(-3 * 24 * time.Hour)
	clock := watch(zone, at, to)
	high := clock[0]
	for i := 0; !at.After(to); i, at = i+1, at.Add(time.Minute) {
		w := clock[i]
		hit := false
		if e.hour == nil {
			hit = e.names(w)
		} else {
			for high.Before(w) {
				high = high.Add(time.Minute)
				hit = hit || e.names(high)
			}
		}
		if hit && at.After(from) {
			due = append(due, at)
		}
	}
	return due
}

var watched sync.Map // of what a clock showed, which takes longest

// watch is what a zone's clock shows at each minute, taken for times of UTC.
func watch(zone *time.Location, from, to time.Time) (shown []time.Time) {
	key := zone.String() + from.String()
	if seen, ok := watched.Load(key); ok {
		return seen.([]time.Time)
	}
	for at := from; !at.After(to); at = at.Add(time.Minute) {
		l := at.In(zone)
		shown = append(shown, time.Date(l.Year(), l.Month(), l.Day(), l.Hour(), l.Minute(), 0, 0, time.UTC))
	}
	watched.Store(key, shown)
	return shown
}

// turns are zones, and years in which their clocks do something remarkable.
var turns = map[string][]int{
	"Europe/Berlin":       {2023, 2024, 2026, 1980},
	"America/New_York":    {2023, 2025, 2007},
	"Australia/Lord_Howe": {2023, 2024},       // half an hour
	"Asia/Kathmandu":      {2024, 1986},       // +05:45, and the day it began
	"Africa/Casablanca":   {2023, 2024, 2025}, // back for Ramadan
	"Pacific/Apia":        {2011, 2012, 2020}, // no 30 December 2011
	"America/Sao_Paulo":   {2017, 2018, 2019}, // midnight doesn't exist
	"Asia/Tehran":         {2021, 2022},
	"America/St_Johns":    {2006, 2011}, // one minute past midnight
	"Antarctica/Troll":    {2024},       // two hours
	"UTC":                 {2024, 2025},
}

func TestDueTimesAreThoseOfAClockThatIsWatched(t *testing.T) {
	t.Parallel()
	var zones []string
	for z := range turns {
		zones = append(zones, z)
	}
	slices.Sort(zones)
	rapid.Check(t, func(rt *rapid.T) {
		name := rapid.SampledFrom(zones).Draw(rt, "zone")
		zone, err := time.LoadLocation(name)
		if err != nil {
			rt.Fatal(err)
		}
		year := rapid.SampledFrom(turns[name]).Draw(rt, "year")
		set := func(what string, low, high, most int) []int {
			v := rapid.SliceOfNDistinct(rapid.IntRange(low, high), 0, most, rapid.ID).Draw(rt, what)
			slices.Sort(v)
			if len(v) == 0 {
				return nil
			}
			return v
		}
		e := expression{minute: set("minute", 0, 59, 3), hour: set("hour", 0, 23, 4), dom: set("dom", 1, 31, 3), month: set("month", 1, 12, 3), dow: set("dow", 0, 7, 2)}
		if rapid.IntRange(0, 3).Draw(rt, "a range of days") == 0 {
			low, step := rapid.IntRange(0, 7).Draw(rt, "first"), rapid.IntRange(1, 7).Draw(rt, "step")
			high := rapid.IntRange(low, 7).Draw(rt, "last")
			first := strconv.Itoa(low)
			if low < 7 && rapid.Bool().Draw(rt, "by name") {
				first = strings.ToUpper(time.Weekday(low).String()[:3])
			}
			e.days, e.dow = fmt.Sprintf("%s-%d/%d", first, high, step), nil
			if step == 1 && rapid.Bool().Draw(rt, "short") {
				e.days = fmt.Sprintf("%s-%d", first, high)
			}
			for d := low; d <= high; d += step {
				e.dow = append(e.dow, d)
			}
		}
		from := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC)
		to := from.AddDate(1, 0, 10)
		timing, err := Parse(Rule{Cron: e.String(), Zone: name})
		if err != nil {
			if e.dom == nil || e.month == nil || e.dow != nil {
				rt.Fatal(err)
			}
			for at := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC); at.Year() < 2036; at = at.AddDate(0, 0, 1) { // is there really no such day?
				if slices.Contains(e.dom, at.Day()) && slices.Contains(e.month, int(at.Month())) {
					rt.Fatalf("%s is refused: %v", e, err)
				}
			}
			return
		}
		var got []time.Time
		for at := from; ; {
			next, ok := timing.Next(at)
			if !ok || next.After(to) {
				break
			}
			if !next.After(at) {
				rt.Fatalf("%s: next after %s is %s", e, at, next)
			}
			got = append(got, next)
			at = next
		}
		want := naive(e, zone, from, to)
		if !slices.EqualFunc(got, want, time.Time.Equal) {
			rt.Fatalf("%s in %s, %d: %d due times, want %d\n%s", e, name, year, len(got), len(want), differ(got, want, zone))
		}
		// From anywhere, not only from one due time to the next.
		for range 20 {
			at := from.Add(time.Duration(rapid.Int64Range(0, int64(360*24*time.Hour)).Draw(rt, "at")))
			i := slices.IndexFunc(want, at.Before)
			next, _ := timing.Next(at)
			if i >= 0 && !next.Equal(want[i]) {
				rt.Fatalf("%s in %s: next after %s is %s, want %s", e, name, at.In(zone), next.In(zone), want[i].In(zone))
			}
		}
		if least := timing.Shortest(); e.hour == nil { // no gaps collapse there
			for i := 1; i < len(want); i++ {
				if d := want[i].Sub(want[i-1]); d < least-time.Hour {
					rt.Fatalf("%s: due after %s, though the shortest is %s", e, d, least)
				}
			}
		}
	})
}

func differ(got, want []time.Time, zone *time.Location) string {
	var out []string
	for _, g := range got {
		if !slices.ContainsFunc(want, g.Equal) {
			out = append(out, "due and should not be: "+g.In(zone).Format(time.RFC3339))
		}
	}
	for _, w := range want {
		if !slices.ContainsFunc(got, w.Equal) {
			out = append(out, "not due and should be: "+w.In(zone).Format(time.RFC3339))
		}
	}
	return strings.Join(out[:min(len(out), 6)], "\n")
}

func TestNightsOnWhichTheClockIsSet(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		cron, zone, after string
		want              []string
	}{
		// 02:30 doesn't exist on 29 March 2026: due at 03:00.
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00+01:00", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
		// It comes twice on 25 October: due the first time.
		{"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00+02:00", []string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
		{"30 2 * * *", "Europe/Berlin", "2026-10-25T02:30:00+02:00", []string{"2026-10-26T02:30:00+01:00"}},
		// Every half hour goes on every half hour.
		{"*/30 * * * *", "Europe/Berlin", "2026-10-25T02:00:00+02:00", []string{"2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T02:30:00+01:00", "2026-10-25T03:00:00+01:00"}},
		{"*/30 * * * *", "Europe/Berlin", "2026-03-29T01:00:00+01:00", []string{"2026-03-29T01:30:00+01:00", "2026-03-29T03:00:00+02:00"}},
		// What falls into one gap is due once.
		{"0,15,45 2 * * *", "America/New_York", "2026-03-07T12:00:00-05:00", []string{"2026-03-08T03:00:00-04:00", "2026-03-09T02:00:00-04:00"}},
		{"0 0 * * *", "America/Sao_Paulo", "2018-11-03T12:00:00-03:00", []string{"2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00"}},
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00:00+10:30", []string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
		// A day that there wasn't.
		{"0 12 30 * *", "Pacific/Apia", "2011-12-01T00:00:00-10:00", []string{"2011-12-31T00:00:00+14:00", "2012-01-30T12:00:00+14:00"}},
		{"30 30 2 * * *", "Europe/Berlin", "2026-03-29T00:00:00+01:00", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:30+02:00"}},
		{"0 0 29 2 *", "UTC", "2024-03-01T00:00:00Z", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		{"0 0 29 2 *", "UTC", "2096-03-01T00:00:00Z", []string{"2104-02-29T00:00:00Z"}},
		{"0 0 31 * *", "UTC", "2026-01-31T00:00:00Z", []string{"2026-03-31T00:00:00Z", "2026-05-31T00:00:00Z"}},
		{"@daily", "Asia/Kathmandu", "2026-01-01T00:00:00+05:45", []string{"2026-01-02T00:00:00+05:45"}},
		{"@every 1h", "Europe/Berlin", "2026-10-25T01:30:00+02:00", []string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"}},
	} {
		t.Run(tt.cron+" "+tt.zone+" "+tt.after, func(t *testing.T) {
			t.Parallel()
			timing, err := Parse(Rule{Cron: tt.cron, Zone: tt.zone})
			if err != nil {
				t.Fatal(err)
			}
			at := at(tt.after)
			for _, want := range tt.want {
				next, ok := timing.Next(at)
				if !ok || timing.Shown(next).Format(time.RFC3339) != want {
					t.Fatalf("after %s: %s, want %s", at, timing.Shown(next).Format(time.RFC3339), want)
				}
				at = next
			}
		})
	}
}

func at(text string) time.Time {
	v, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return v
}

func TestNothingIsDueOutsideStartAndEnd(t *testing.T) {
	t.Parallel()
	starts, ends := at("2026-05-01T00:00:00Z"), at("2026-05-03T00:00:00Z")
	timing, err := Parse(Rule{Cron: "@daily", Starts: &starts, Ends: &ends})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for now, ok := at("2026-01-01T00:00:00Z"), true; ok; {
		if now, ok = timing.Next(now); ok {
			got = append(got, now.Format(time.DateOnly))
		}
	}
	if want := []string{"2026-05-01", "2026-05-02"}; !slices.Equal(got, want) {
		t.Errorf("due on %v, want %v", got, want)
	}
	every, err := Parse(Rule{Cron: "@every 36h", Starts: &starts, Ends: &ends})
	if err != nil {
		t.Fatal(err)
	}
	if first, _ := every.Next(at("2026-01-01T00:00:00Z")); !first.Equal(starts) {
		t.Errorf("@every is due first at %s, want its start", first)
	}
}

func TestJitterIsTheSameWhoeverAsks(t *testing.T) {
	t.Parallel()
	rule := Rule{Cron: "@hourly", Jitter: 10 * time.Minute, Seed: []byte("one")}
	a, errA := Parse(rule)
	b, errB := Parse(rule)
	rule.Seed = []byte("two")
	c, errC := Parse(rule)
	if err := errors.Join(errA, errB, errC); err != nil {
		t.Fatal(err)
	}
	due, seen, same := at("2026-01-01T00:00:00Z"), map[time.Duration]bool{}, 0
	for range 200 {
		due, _ = a.Next(due)
		d := a.Fire(due).Sub(due)
		if d != b.Fire(due).Sub(due) || d < 0 || d > 10*time.Minute {
			t.Fatalf("%s is started after %s and %s", due, d, b.Fire(due).Sub(due))
		}
		if c.Fire(due).Equal(a.Fire(due)) {
			same++
		}
		seen[d] = true
	}
	if len(seen) < 100 || same > 10 {
		t.Errorf("%d different delays of 200, %d the same in another schedule", len(seen), same)
	}
}

func TestWhatCannotBeDueIsRefusedByField(t *testing.T) {
	t.Parallel()
	early, late := at("2026-05-01T00:00:00Z"), at("2026-05-03T00:00:00Z")
	for field, rules := range map[string][]Rule{
		"cron": {{}, {Cron: "0 0 30 2 *"}, {Cron: "0 0 31 4,6,9,11 *"}, {Cron: "* * * *"}, {Cron: "60 * * * *"}, {Cron: "@reboot"}, {Cron: "TZ=UTC 0 0 * * *"},
			{Cron: "TZ="}, {Cron: "@every"}, {Cron: "@every -1h"}, {Cron: "@every 1ms"}, {Cron: "@every 1.5s"}, {Cron: "@every 9000h"}, {Cron: ", * * * *"},
			{Cron: "*/0 * * * *"}, {Cron: "0 0 * * 8"}, {Cron: "0 0 * * 7-1"}, {Cron: "0 0 * * 1-8"}, {Cron: "0 0 * 7 -7"},
			{Cron: "0 0 * * 1-7/0"}, {Cron: "0 0 * * 7/x"}, {Cron: "0 0 * * day-7"}, {Cron: strings.Repeat("1,", 200) + "1 * * * *"}},
		"time_zone":      {{Cron: "@daily", Zone: "Mars/Olympus"}, {Cron: "@daily", Zone: "Local"}, {Cron: "@daily", Zone: "../etc/passwd"}},
		"ends_at":        {{Cron: "@daily", Starts: &late, Ends: &early}, {Cron: "@daily", Starts: &late, Ends: &late}},
		"jitter_seconds": {{Cron: "@daily", Jitter: -1}, {Cron: "@daily", Jitter: 25 * time.Hour}},
	} {
		for _, r := range rules {
			_, err := Parse(r)
			if e, ok := errors.AsType[*Error](err); !ok || e.Field != field {
				t.Errorf("%+v: %v, want %s refused", r, err, field)
			}
		}
	}
}

func TestShortestIsTheLeastDistance(t *testing.T) {
	t.Parallel()
	for cron, want := range map[string]time.Duration{
		"* * * * *": time.Minute, "* * * * * *": time.Second, "*/20 * * * * *": 20 * time.Second, "0 2 * * *": day, "0,59 0,23 * * *": time.Minute,
		"0 0,23 * * *": time.Hour, "59 23 1 * *": 28 * day, "0 0 29 2 *": 366 * day, "50 59 0 * * *": day, "10,50 0 * * * *": 40 * time.Second,
		"55,5 59,0 * * * *": 10 * time.Second, "0 0 1 * 1": day, "@every 90s": 90 * time.Second, "0 22-23,0 1,2 * *": time.Hour, "0 0,23 1 * *": 23 * time.Hour,
	} {
		timing, err := Parse(Rule{Cron: cron})
		if err != nil {
			t.Fatal(err)
		}
		if got := timing.Shortest(); got != want {
			t.Errorf("%s: %s, want %s", cron, got, want)
		}
	}
}

func TestWhatIsMadeUpFor(t *testing.T) {
	t.Parallel()
	now := at("2026-05-01T00:00:00Z")
	ago := func(minutes ...int) (out []time.Time) {
		for _, m := range minutes {
			out = append(out, now.Add(-time.Duration(m)*time.Minute))
		}
		return out
	}
	for _, tt := range []struct {
		starts []time.Time
		most   int
		want   string
	}{
		{ago(0), 0, "[true]"}, {ago(1), 0, "[true]"}, {ago(2), 0, "[false]"}, {ago(3, 2, 1), 0, "[false false true]"}, {ago(9, 8), 0, "[false false]"},
		{ago(9, 8), 1, "[false true]"}, {ago(9, 8, 0), 1, "[false false true]"}, {ago(9, 8, 7), 2, "[false true true]"}, {ago(9, 8), 5, "[true true]"},
	} {
		if got := fmt.Sprint(Runs(tt.starts, now, tt.most)); got != tt.want {
			t.Errorf("%v, most %d: %s, want %s", tt.starts, tt.most, got, tt.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"0 2 * * *", "*/5 0 2-9/3 ? JAN sun", "@every 1h", "TZ=x", "@daily", "1-0 * * * *", "* * * * */9223372036854775807"} {
		f.Add(s, "Europe/Berlin")
	}
	f.Fuzz(func(t *testing.T, cron, zone string) {
		timing, err := Parse(Rule{Cron: cron, Zone: zone})
		if err != nil {
			return
		}
		now := at("2026-03-28T00:00:00Z")
		next, ok := timing.Next(now)
		if !ok || !next.After(now) || timing.Shortest() < time.Second {
			t.Errorf("%q in %q: next %s %t, shortest %s", cron, zone, next, ok, timing.Shortest())
		}
	})
}
