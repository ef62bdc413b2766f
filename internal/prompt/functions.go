package prompt

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"text/template"
	"unicode/utf8"
)

// arity is how many arguments a function takes; a negative max is no limit.
type arity struct{ min, max int }

// arities lists the functions of a template. All of them are pure: no time, no chance, no environment. The text comes
// last, so that it can be piped: {{.tags | join ", " | upper}}.
//
// Those that text/template has too differ in this: numbers of a job compare as numbers, len and slice count
// characters, index fails on what isn't there, print and printf write arrays and objects as JSON.
var arities = map[string]arity{
	"upper": {1, 1},
	"lower": {1, 1},
	"trim":  {1, 1}, // white space on both sides
	"quote": {1, 1}, // as a JSON string

	"indent":    {2, 2}, // indent 4 text: four spaces before every line that isn't empty
	"truncate":  {2, 2}, // truncate 100 text: its first 100 characters
	"replace":   {3, 3}, // replace "old" "new" text
	"contains":  {2, 2}, // contains "part" text
	"hasPrefix": {2, 2},
	"hasSuffix": {2, 2},

	"join":    {2, 2}, // join ", " array
	"split":   {2, 2}, // split "," text
	"json":    {1, 1}, // sorted members, no white space, numbers as they were written
	"default": {2, 2}, // default "instead" value: for null, "", [], {} and what isn't given; not for 0 and false

	"len":     {1, 1},
	"index":   {2, -1}, // index value 0 "member"
	"slice":   {2, 3},  // slice value from to
	"print":   {1, -1},
	"println": {0, -1},
	"printf":  {1, -1},

	"and": {1, -1}, "or": {1, -1}, "not": {1, 1},
	"eq": {2, -1}, "ne": {2, 2}, "lt": {2, 2}, "le": {2, 2}, "gt": {2, 2}, "ge": {2, 2},
}

// Functions that the checker puts into a template. The parser does not know them, so nobody can write them.
const (
	asText  = "asText"
	asItems = "asItems"
)

// budget bounds the work of one render, so that no template and no input can hang a worker.
type budget struct {
	steps int // nodes in the bodies of loops
	bytes int // that functions may read and make
}

func newBudget() budget { return budget{steps: 5_000_000, bytes: 8 * MaxRendered} }

var (
	errSteps = errors.New("the loops of the template run too long for one job")
	errBytes = errors.New("the functions of the template make too much text for one job")
)

func (b *budget) charge(bytes int) error {
	if bytes < 0 || b.bytes < bytes {
		return errBytes
	}
	b.bytes -= bytes
	return nil
}

// functions binds the functions to the executor's budget.
func (e *executor) functions() template.FuncMap {
	return template.FuncMap{
		asText: e.text, asItems: e.items,
		"upper": e.onText(strings.ToUpper), "lower": e.onText(strings.ToLower), "trim": e.onText(strings.TrimSpace),
		"quote":  e.onText(func(s string) string { return string(appendString(nil, s)) }),
		"indent": e.indent, "truncate": e.truncate, "replace": e.replace,
		"contains":  e.onTexts(func(part, s string) bool { return strings.Contains(s, part) }),
		"hasPrefix": e.onTexts(func(part, s string) bool { return strings.HasPrefix(s, part) }),
		"hasSuffix": e.onTexts(func(part, s string) bool { return strings.HasSuffix(s, part) }),
		"join":      e.join, "split": e.split, "json": e.json, "default": fallback,
		"len": e.length, "index": index, "slice": e.slice,
		"print": e.print, "println": e.println, "printf": e.printf,
		"eq": e.eq, "ne": e.ne, "lt": e.lt, "le": e.le, "gt": e.gt, "ge": e.ge,
	}
}

// text is what a value prints.
func (e *executor) text(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		return string(v), nil
	case nil:
		return "null", nil
	case *absent:
		return "", nil
	case bool:
		return strconv.FormatBool(v), nil
	case int:
		return strconv.Itoa(v), nil
	case float64:
		return string(appendDouble(nil, v)), nil
	}
	return e.json(v)
}

func (e *executor) texts(args ...any) ([]string, error) {
	all := make([]string, len(args))
	for i, arg := range args {
		var err error
		if all[i], err = e.text(arg); err != nil {
			return nil, err
		}
		if err := e.charge(len(all[i])); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (e *executor) onText(f func(string) string) any {
	return func(v any) (string, error) {
		s, err := e.texts(v)
		if err != nil {
			return "", err
		}
		result := f(s[0])
		return result, e.charge(len(result))
	}
}

func (e *executor) onTexts(f func(part, s string) bool) any {
	return func(part, v any) (bool, error) {
		s, err := e.texts(part, v)
		if err != nil {
			return false, err
		}
		return f(s[0], s[1]), nil
	}
}

// items lets a range walk v and charges for it: weight is the number of nodes in the loop's body.
func (e *executor) items(weight int, v any) (any, error) {
	n := 0
	switch list := v.(type) {
	case []any:
		n = len(list)
	case map[string]any:
		n = len(list)
	case int:
		n = max(list, 0)
	case nil: // no items
	default:
		return nil, fmt.Errorf("range needs an array or an object, got %s", jsonType(v))
	}
	if n > e.steps/weight {
		return nil, errSteps
	}
	e.steps -= n * weight
	return v, nil
}

func jsonType(v any) string {
	switch v.(type) {
	case nil, *absent:
		return "null"
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	}
	return "a number"
}

func (e *executor) json(v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fmt.Errorf("%s has no JSON form", jsonType(v))
	}
	if err := e.charge(2 * len(b)); err != nil {
		return "", err
	}
	return string(appendStable(nil, b)), nil
}

// fallback is the function default.
func fallback(instead, v any) any {
	switch v := v.(type) {
	case nil, *absent:
		return instead
	case string:
		if v == "" {
			return instead
		}
	case []any:
		if len(v) == 0 {
			return instead
		}
	case map[string]any:
		if len(v) == 0 {
			return instead
		}
	}
	return v
}

func (e *executor) indent(spaces, v any) (string, error) {
	n, err := count(spaces)
	if err != nil {
		return "", err
	}
	s, err := e.texts(v)
	if err != nil {
		return "", err
	}
	if n > 1000 {
		return "", errors.New("indents by at most 1000 spaces")
	}
	if err := e.charge(n * (strings.Count(s[0], "\n") + 1)); err != nil {
		return "", err
	}
	var b strings.Builder
	margin := strings.Repeat(" ", n)
	for line := range strings.Lines(s[0]) {
		if line != "\n" {
			b.WriteString(margin)
		}
		b.WriteString(line)
	}
	return b.String(), nil
}

func (e *executor) truncate(characters, v any) (string, error) {
	n, err := count(characters)
	if err != nil {
		return "", err
	}
	s, err := e.texts(v)
	if err != nil {
		return "", err
	}
	return s[0][:byteAt(s[0], n)], nil
}

// byteAt returns where character n begins, or the end.
func byteAt(s string, n int) int {
	for i := range s {
		if n == 0 {
			return i
		}
		n--
	}
	return len(s)
}

func (e *executor) replace(from, to, v any) (string, error) {
	s, err := e.texts(from, to, v)
	if err != nil {
		return "", err
	}
	if s[0] == "" {
		return "", errors.New("replaces nothing: its first argument is empty")
	}
	n := strings.Count(s[2], s[0])
	if len(s[1]) > 0 && n > e.bytes/len(s[1]) {
		return "", errBytes
	}
	if err := e.charge(n*len(s[1]) + len(s[2])); err != nil {
		return "", err
	}
	return strings.ReplaceAll(s[2], s[0], s[1]), nil
}

func (e *executor) join(separator, v any) (string, error) {
	list, ok := v.([]any)
	if !ok {
		return "", fmt.Errorf("joins an array, got %s", jsonType(v))
	}
	s, err := e.texts(separator)
	if err != nil {
		return "", err
	}
	if len(s[0]) > 0 && len(list) > e.bytes/len(s[0]) {
		return "", errBytes
	}
	if err := e.charge(len(list) * (len(s[0]) + 1)); err != nil {
		return "", err
	}
	parts, err := e.texts(list...)
	if err != nil {
		return "", err
	}
	return strings.Join(parts, s[0]), nil
}

func (e *executor) split(separator, v any) ([]any, error) {
	s, err := e.texts(separator, v)
	if err != nil {
		return nil, err
	}
	if s[0] == "" {
		return nil, errors.New("splits at nothing: its first argument is empty")
	}
	if err := e.charge(16 * (strings.Count(s[1], s[0]) + 1)); err != nil {
		return nil, err
	}
	var parts []any
	for part := range strings.SplitSeq(s[1], s[0]) {
		parts = append(parts, part)
	}
	return parts, nil
}

func (e *executor) length(v any) (int, error) {
	switch v := v.(type) {
	case string:
		return utf8.RuneCountInString(v), e.charge(len(v))
	case []any:
		return len(v), nil
	case map[string]any:
		return len(v), nil
	}
	return 0, fmt.Errorf("%s has no length", jsonType(v))
}

// index walks into arrays and objects.
func index(v any, path ...any) (any, error) {
	for _, step := range path {
		switch in := v.(type) {
		case []any:
			i, err := count(step)
			if err != nil {
				return nil, err
			}
			if i >= len(in) {
				return nil, fmt.Errorf("the array has %d items, there is no item %d", len(in), i)
			}
			v = in[i]
		case map[string]any:
			name, ok := step.(string)
			if !ok {
				return nil, fmt.Errorf("the name of a member is a string, not %s", jsonType(step))
			}
			if v, ok = in[name]; !ok {
				return nil, errors.New("the object has no such member")
			}
		default:
			return nil, fmt.Errorf("%s has no items", jsonType(v))
		}
	}
	return v, nil
}

// slice takes characters of a text or items of an array: slice v from to.
func (e *executor) slice(v any, bounds ...any) (any, error) {
	from, err := count(bounds[0])
	if err != nil {
		return nil, err
	}
	to := -1
	if len(bounds) > 1 {
		if to, err = count(bounds[1]); err != nil {
			return nil, err
		}
		if to < from {
			return nil, errors.New("the end of a slice is before its beginning")
		}
	}
	if list, ok := v.([]any); ok {
		if to < 0 || to > len(list) {
			to = len(list)
		}
		return list[min(from, to):to], nil
	}
	s, err := e.texts(v)
	if err != nil {
		return nil, err
	}
	text := s[0][byteAt(s[0], from):]
	if to >= 0 {
		text = text[:byteAt(text, to-from)]
	}
	return text, nil
}

// count reads a whole number that isn't negative.
func count(v any) (int, error) {
	switch v := v.(type) {
	case int:
		if v >= 0 {
			return v, nil
		}
	case json.Number:
		if n, err := strconv.Atoi(string(v)); err == nil && n >= 0 {
			return n, nil
		}
	}
	return 0, errors.New("needs a whole number that is not negative")
}
