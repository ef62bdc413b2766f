package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// condition is a parsed condition of a route: MongoDB's query language, as far as Cloudflare's guide shows it.
//
// A path begins with body, headers or metadata: "metadata.plan", "body.messages.0.role". Equality with null holds where there is nothing. A
// list equals a value when one of its entries does. Values of different types are never ordered, but what a header says is read as the type
// it is compared with.
type condition func(in *routeInput) bool

const maxConditionDepth = 16

// parseCondition returns errors for people, which repeat no value.
func parseCondition(raw json.RawMessage) (condition, error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, errors.New("is required")
	}
	return all(v, maxConditionDepth)
}

// all reads an object, of which every entry must hold.
func all(v any, depth int) (condition, error) {
	object, ok := v.(map[string]any)
	switch {
	case !ok:
		return nil, errors.New(`must be an object such as {"metadata.plan": {"$eq": "free"}}`)
	case depth == 0:
		return nil, errors.New("is nested too deeply")
	}
	var list []condition
	for _, key := range slices.Sorted(maps.Keys(object)) {
		c, err := entry(key, object[key], depth-1)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return every(list), nil
}

func every(list []condition) condition {
	return func(in *routeInput) bool {
		for _, c := range list {
			if !c(in) {
				return false
			}
		}
		return true
	}
}

func entry(key string, v any, depth int) (condition, error) {
	switch key {
	case "$and", "$or":
		list, ok := v.([]any)
		if !ok || len(list) == 0 {
			return nil, fmt.Errorf("wants a list of conditions at %s", key)
		}
		var parts []condition
		for _, e := range list {
			c, err := all(e, depth)
			if err != nil {
				return nil, err
			}
			parts = append(parts, c)
		}
		if key == "$and" {
			return every(parts), nil
		}
		return func(in *routeInput) bool { return slices.ContainsFunc(parts, func(c condition) bool { return c(in) }) }, nil
	case "$not":
		c, err := all(v, depth)
		if err != nil {
			return nil, err
		}
		return func(in *routeInput) bool { return !c(in) }, nil
	}
	path, err := parsePath(key)
	if err != nil {
		return nil, err
	}
	test, err := fieldTest(v, depth)
	if err != nil {
		return nil, err
	}
	return func(in *routeInput) bool {
		value, ok := path.value(in)
		return test(operand{value, ok, path[0] == "headers"})
	}, nil
}

// operand is what a path leads to.
type operand struct {
	value  any
	there  bool
	header bool // text that may mean a number or a boolean
}

type test func(o operand) bool

// fieldTest reads what a field is compared with: operators, or a value that it must equal.
func fieldTest(v any, depth int) (test, error) {
	object, ok := v.(map[string]any)
	if !ok || len(object) == 0 || !slices.ContainsFunc(slices.Collect(maps.Keys(object)), func(k string) bool { return strings.HasPrefix(k, "$") }) {
		return func(o operand) bool { return o.equals(v) }, nil
	}
	if depth == 0 {
		return nil, errors.New("is nested too deeply")
	}
	var list []test
	for _, name := range slices.Sorted(maps.Keys(object)) {
		t, err := operator(name, object[name], depth-1)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	return func(o operand) bool {
		for _, t := range list {
			if !t(o) {
				return false
			}
		}
		return true
	}, nil
}

func operator(name string, v any, depth int) (test, error) {
	switch name {
	case "$eq":
		return func(o operand) bool { return o.equals(v) }, nil
	case "$ne":
		return func(o operand) bool { return !o.equals(v) }, nil
	case "$in", "$nin":
		list, ok := v.([]any)
		if !ok {
			return nil, fmt.Errorf("wants a list at %s", name)
		}
		return func(o operand) bool { return slices.ContainsFunc(list, o.equals) == (name == "$in") }, nil
	case "$exists":
		want, ok := v.(bool)
		if !ok {
			return nil, errors.New("wants true or false at $exists")
		}
		return func(o operand) bool { return o.there == want }, nil
	case "$not":
		t, err := fieldTest(v, depth)
		if err != nil {
			return nil, err
		}
		return func(o operand) bool { return !t(o) }, nil
	case "$gt", "$gte", "$lt", "$lte":
		switch v.(type) {
		case float64, string:
		default:
			return nil, fmt.Errorf("wants a number or a string at %s", name)
		}
		return func(o operand) bool {
			c, ok := o.compare(v)
			switch name {
			case "$gt":
				return ok && c > 0
			case "$gte":
				return ok && c >= 0
			case "$lt":
				return ok && c < 0
			default:
				return ok && c <= 0
			}
		}, nil
	}
	return nil, errors.New("has an unknown operator; known are $eq, $ne, $gt, $gte, $lt, $lte, $in, $nin, $exists, $not, $and and $or")
}

func (o operand) equals(want any) bool {
	if !o.there {
		return want == nil
	}
	v := o.like(want)
	if reflect.DeepEqual(v, want) {
		return true
	}
	list, ok := v.([]any)
	return ok && slices.ContainsFunc(list, func(e any) bool { return reflect.DeepEqual(e, want) })
}

func (o operand) compare(want any) (int, bool) {
	switch want := want.(type) {
	case float64:
		v, ok := o.like(want).(float64)
		if !ok {
			return 0, false
		}
		switch {
		case v < want:
			return -1, true
		case v > want:
			return 1, true
		}
		return 0, v == want
	case string:
		v, ok := o.value.(string)
		return strings.Compare(v, want), ok
	}
	return 0, false
}

// like reads a header as the type of what it is compared with.
func (o operand) like(want any) any {
	s, ok := o.value.(string)
	if !ok || !o.header {
		return o.value
	}
	switch want.(type) {
	case float64:
		if f, err := strconv.ParseFloat(s, 64); err == nil {
			return f
		}
	case bool:
		if b, err := strconv.ParseBool(s); err == nil {
			return b
		}
	}
	return s
}

// routePath leads to a part of a request. Its first name is body, headers or metadata.
type routePath []string

func parsePath(s string) (routePath, error) {
	p := strings.Split(s, ".")
	if len(p) < 2 || len(s) > 500 || slices.Contains(p, "") {
		return nil, errors.New("has a path that is not body.NAME, headers.NAME or metadata.NAME")
	}
	switch p[0] {
	case "body":
		return p, nil
	case "headers":
		return routePath{"headers", http.CanonicalHeaderKey(strings.Join(p[1:], "."))}, nil
	case "metadata":
		return routePath{"metadata", strings.Join(p[1:], ".")}, nil // flat: a dot belongs to the name
	}
	return nil, errors.New("has a path that is not body.NAME, headers.NAME or metadata.NAME")
}

func (p routePath) value(in *routeInput) (any, bool) {
	switch p[0] {
	case "headers":
		if v := in.Header[p[1]]; len(v) > 0 {
			return v[0], true
		}
		return nil, false
	case "metadata":
		v, ok := in.Metadata[p[1]]
		return number(v), ok
	}
	v := in.decode()
	for _, name := range p[1:] {
		switch at := v.(type) {
		case map[string]any:
			var ok bool
			if v, ok = at[name]; !ok {
				return nil, false
			}
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(at) {
				return nil, false
			}
			v = at[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// number makes a float64 of whatever metadata holds for one.
func number(v any) any {
	switch n := v.(type) {
	case int:
		return float64(n)
	case int64:
		return float64(n)
	case json.Number:
		if f, err := n.Float64(); err == nil {
			return f
		}
		return n.String()
	}
	return v
}

// text is the value as a part of a limit's name.
func (p routePath) text(in *routeInput) string {
	v, ok := p.value(in)
	if !ok || v == nil {
		return ""
	}
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		return ""
	}
	return string(b)
}

func (in *routeInput) decode() any {
	if !in.decoded {
		in.decoded = true
		if err := json.Unmarshal(in.Body, &in.body); err != nil {
			in.body = nil
		}
	}
	return in.body
}
