package gateway

import (
	"encoding/json"
	"hash/crc32"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// This file makes the simulator's text and JSON. All of it is a function of the random stream it is given.

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// random is SplitMix64 (Steele, Lea and Flood, 2014): the same seed gives the same stream on every machine.
type random uint64

func (r *random) next() uint64 {
	*r += 0x9e3779b97f4a7c15
	z := uint64(*r)
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

// unit returns a number in [0, 1).
func (r *random) unit() float64 { return float64(r.next()>>11) / (1 << 53) }

var lexicon = strings.Fields(`the a this each every one account agreement amount analysis answer area batch case cause change
	claim clause client column condition contract cost customer data date decision delay delivery detail document effect
	error evidence example factor field figure finding form group growth increase issue item label letter level limit line
	list market matter measure method model month need note number office option order page part party payment period plan
	point policy price process product project question rate reason record report request result review risk rule sample
	section service share source state step summary supply system table task team term test text time total trend unit use
	value view week work year shows follows needs holds gives takes means covers names leaves of for with in on and or but`)

// prose appends words until dst holds size bytes, or is as long as it was when that is more. It never splits a word.
func (r *random) prose(dst []byte, size int) []byte {
	left, first := 0, true
	for {
		if left == 0 {
			left = 6 + int(r.next()%10)
			if !first {
				dst = append(dst, '.')
			}
			first = true
		}
		w := lexicon[r.next()%uint64(len(lexicon))]
		if len(dst)+1+len(w)+1 > size {
			return append(dst, '.')
		}
		dst = append(dst, ' ')
		if first {
			dst = append(dst, w[0]-'a'+'A')
			dst = append(dst, w[1:]...)
			first = false
		} else {
			dst = append(dst, w...)
		}
		left--
	}
}

// appendInstance appends a JSON value that satisfies a schema. It follows type, properties, required, items, enum,
// const, anyOf, oneOf, allOf (its first part), local $ref, bounds and lengths, and the common formats. Without a
// schema it is a small object.
func appendInstance(dst []byte, raw json.RawMessage, r *random) []byte {
	var root schema
	if len(raw) == 0 || json.Unmarshal(raw, &root) != nil {
		dst = append(dst, `{"simulated":true,"text":`...)
		return append(appendString(dst, string(r.prose([]byte("[simulated]"), 120))), '}')
	}
	in := &inventor{root: &root, r: r, left: mostValues}
	return in.value(dst, &root, 0)
}

type inventor struct {
	root *schema
	r    *random
	left int // values that may still be made
}

// A schema may demand an endless value. Past these bounds it gets null, whatever it says.
const (
	plainDepth = 6 // below it only what is required
	mostDepth  = 40
	mostValues = 10_000
)

func (in *inventor) value(dst []byte, s *schema, depth int) []byte {
	in.left--
	if s == nil || depth > mostDepth || in.left < 0 {
		return append(dst, "null"...)
	}
	switch {
	case s.Ref != "":
		return in.value(dst, in.resolve(s.Ref), depth+1)
	case len(s.Const) > 0:
		return append(dst, s.Const...)
	case len(s.Enum) > 0:
		return append(dst, s.Enum[in.r.next()%uint64(len(s.Enum))]...)
	}
	for _, alternatives := range [][]*schema{s.AnyOf, s.OneOf, s.AllOf} {
		if i := slices.IndexFunc(alternatives, func(a *schema) bool { return a != nil && a.kind() != "null" }); i >= 0 {
			return in.value(dst, alternatives[i], depth+1)
		}
	}
	switch s.kind() {
	case "object":
		return in.object(dst, s, depth)
	case "array":
		return in.array(dst, s, depth)
	case "integer":
		lo, hi := s.bounds(1)
		lo, hi = math.Ceil(lo), math.Floor(hi)
		return strconv.AppendInt(dst, int64(lo)+int64(in.r.next()%uint64(max(hi-lo, 0)+1)), 10)
	case "number":
		lo, hi := s.bounds(0)
		v := lo + (hi-lo)*in.r.unit()
		if short := math.Round(v*100) / 100; short > lo && short < hi {
			v = short
		}
		return strconv.AppendFloat(dst, v, 'f', -1, 64)
	case "boolean":
		return strconv.AppendBool(dst, in.r.next()&1 == 0)
	case "null":
		return append(dst, "null"...)
	}
	return appendString(dst, in.text(s))
}

// resolve finds #, #/$defs/NAME and #/definitions/NAME.
func (in *inventor) resolve(ref string) *schema {
	if ref == "#" {
		return in.root
	}
	if name, ok := strings.CutPrefix(ref, "#/$defs/"); ok {
		return in.root.Defs[name]
	}
	if name, ok := strings.CutPrefix(ref, "#/definitions/"); ok {
		return in.root.OldDefs[name]
	}
	return nil
}

func (in *inventor) object(dst []byte, s *schema, depth int) []byte {
	dst = append(dst, '{')
	some := false
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		if depth > plainDepth && !slices.Contains(s.Required, name) {
			continue
		}
		if some {
			dst = append(dst, ',')
		}
		some = true
		dst = append(appendString(dst, name), ':')
		dst = in.value(dst, s.Properties[name], depth+1)
	}
	for _, name := range s.Required {
		if _, known := s.Properties[name]; !known {
			if some {
				dst = append(dst, ',')
			}
			some = true
			dst = append(appendString(dst, name), `:"simulated"`...)
		}
	}
	return append(dst, '}')
}

func (in *inventor) array(dst []byte, s *schema, depth int) []byte {
	n := s.MinItems
	if depth <= plainDepth {
		n = max(n, 1+int(in.r.next()%3))
	}
	if s.MaxItems != nil {
		n = min(n, *s.MaxItems)
	}
	n = min(n, in.left)
	dst = append(dst, '[')
	for i := range max(n, 0) {
		if i > 0 {
			dst = append(dst, ',')
		}
		if s.Items == nil {
			dst = append(dst, `"simulated"`...)
			continue
		}
		dst = in.value(dst, s.Items, depth+1)
	}
	return append(dst, ']')
}

// bounds returns the closed range of a number; step is the distance to an excluded bound.
func (s *schema) bounds(step float64) (lo, hi float64) {
	const span = 100
	lo, hi = 0, span
	if s.Minimum != nil {
		lo, hi = *s.Minimum, *s.Minimum+span
	}
	if s.Above != nil {
		lo, hi = *s.Above+max(step, 0.01), *s.Above+span
	}
	if s.Maximum != nil {
		hi = *s.Maximum
	}
	if s.Below != nil {
		hi = *s.Below - max(step, 0.01)
	}
	if lo > hi {
		if s.Minimum == nil && s.Above == nil {
			lo = hi - span
		} else {
			hi = lo
		}
	}
	const most = 1 << 53
	return max(min(lo, most), -most), max(min(hi, most), -most)
}

var formats = map[string]string{
	"date": "2026-01-15", "date-time": "2026-01-15T09:30:00Z", "time": "09:30:00Z", "duration": "P1D",
	"email": "simulated@example.com", "uri": "https://example.com/simulated", "hostname": "example.com",
	"ipv4": "192.0.2.1", "ipv6": "2001:db8::1", "uuid": "00000000-0000-4000-8000-000000000000",
}

func (in *inventor) text(s *schema) string {
	if v, ok := formats[s.Format]; ok {
		return v
	}
	v := strings.TrimSpace(string(in.r.prose(nil, 30)))
	for len(v) < min(s.MinLength, 1<<16) {
		v += " " + v
	}
	in.left -= len(v) / 64
	if s.MaxLength != nil && len(v) > *s.MaxLength {
		v = v[:min(len(v), max(*s.MaxLength, s.MinLength, 0))]
	}
	return v
}
