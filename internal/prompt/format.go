package prompt

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

func (e *executor) print(args ...any) (string, error) {
	parts, err := e.texts(args...)
	if err != nil {
		return "", err
	}
	return strings.Join(parts, ""), nil
}

func (e *executor) println(args ...any) (string, error) {
	parts, err := e.texts(args...)
	if err != nil {
		return "", err
	}
	return strings.Join(parts, " ") + "\n", nil
}

// maxWidth bounds the width and precision of a printf verb, in characters.
const maxWidth = 1000

func (e *executor) printf(format string, args ...any) (string, error) {
	verbs, err := checkFormat(format)
	if err != nil {
		return "", err
	}
	converted := make([]any, len(args))
	cost := len(format) + verbs*maxWidth
	for i, arg := range args {
		switch v := arg.(type) {
		case json.Number:
			converted[i] = numeral(v)
		case []any, map[string]any:
			s, err := e.json(v)
			if err != nil {
				return "", err
			}
			converted[i] = s
		case nil:
			converted[i] = "null"
		case *absent:
			converted[i] = ""
		default:
			converted[i] = v
		}
		if s, ok := converted[i].(string); ok {
			cost += 4 * len(s)
		}
	}
	if err := e.charge(cost); err != nil {
		return "", err
	}
	result := fmt.Sprintf(format, converted...)
	if strings.Contains(result, "%!") && !strings.Contains(format, "%!") {
		for _, arg := range converted {
			if s, ok := arg.(string); ok && strings.Contains(s, "%!") {
				return result, e.charge(len(result))
			}
		}
		return "", errors.New("a verb of the format does not fit its argument")
	}
	return result, e.charge(len(result))
}

// checkFormat counts the verbs of a format. It refuses what isn't deterministic or has no bound: %p, %T, a width from
// an argument, a width over 1000, an argument used by its index.
func checkFormat(format string) (verbs int, err error) {
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			continue
		}
		i++
		for i < len(format) && strings.IndexByte("+-# 0123456789.", format[i]) >= 0 {
			from := i
			if i = skipDigits([]byte(format[:min(len(format), i+8)]), i); i == from {
				i++
				continue
			}
			if n, _ := strconv.Atoi(format[from:i]); n > maxWidth {
				return 0, fmt.Errorf("a width is at most %d", maxWidth)
			}
		}
		if i == len(format) || strings.IndexByte("%vsqdfFeEgGxXotbcU", format[i]) < 0 {
			return 0, errors.New("the format has a verb that is not available")
		}
		verbs++
	}
	return verbs, nil
}

// numeral prints a number of a job: as it was written for %v and %s, else as the verb says.
type numeral string

// Format implements fmt.Formatter.
func (n numeral) Format(f fmt.State, verb rune) {
	format := fmt.FormatString(f, verb)
	switch verb {
	case 'v', 's', 'q':
		fmt.Fprintf(f, strings.Replace(format, string(verb), map[rune]string{'v': "s", 's': "s", 'q': "q"}[verb], 1), string(n))
		return
	case 'd', 'x', 'X', 'o', 'b', 'c', 'U':
		if i, err := strconv.ParseInt(string(n), 10, 64); err == nil {
			fmt.Fprintf(f, format, i)
			return
		}
	}
	if x, err := strconv.ParseFloat(string(n), 64); err == nil {
		fmt.Fprintf(f, format, x)
		return
	}
	fmt.Fprintf(f, format, string(n))
}

// compare orders two numbers or two strings. Anything else has no order.
func (e *executor) compare(a, b any) (int, error) {
	if x, ok := toFloat(a); ok {
		if y, ok := toFloat(b); ok {
			return compareNumbers(a, b, x, y), nil
		}
	}
	x, ok := a.(string)
	y, also := b.(string)
	if !ok || !also {
		return 0, fmt.Errorf("%s and %s have no order", jsonType(a), jsonType(b))
	}
	return strings.Compare(x, y), e.charge(min(len(x), len(y)))
}

func toFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case int:
		return float64(v), true
	case float64:
		return v, true
	case json.Number:
		f, err := strconv.ParseFloat(string(v), 64)
		return f, err == nil
	}
	return 0, false
}

// compareNumbers compares whole numbers exactly, others as doubles.
func compareNumbers(a, b any, x, y float64) int {
	if i, ok := toInt(a); ok {
		if j, ok := toInt(b); ok {
			switch {
			case i < j:
				return -1
			case i > j:
				return 1
			}
			return 0
		}
	}
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func toInt(v any) (int64, bool) {
	switch v := v.(type) {
	case int:
		return int64(v), true
	case json.Number:
		i, err := strconv.ParseInt(string(v), 10, 64)
		return i, err == nil
	}
	return 0, false
}

// equal compares strings, numbers, booleans and null; values of two types are never equal. An absent number is null.
func (e *executor) equal(a, b any) (bool, error) {
	for _, v := range []any{a, b} {
		switch v.(type) {
		case []any, map[string]any:
			return false, fmt.Errorf("%s can't be compared", jsonType(v))
		}
	}
	if jsonType(a) != jsonType(b) {
		return false, nil
	}
	switch a := a.(type) {
	case nil, *absent:
		return true, nil
	case bool:
		return a == b, nil
	}
	order, err := e.compare(a, b)
	return order == 0, err
}

func (e *executor) eq(a any, others ...any) (bool, error) {
	for _, b := range others {
		if same, err := e.equal(a, b); err != nil || same {
			return same, err
		}
	}
	return false, nil
}

func (e *executor) ne(a, b any) (bool, error) {
	same, err := e.equal(a, b)
	return !same, err
}

func (e *executor) lt(a, b any) (bool, error) {
	order, err := e.compare(a, b)
	return order < 0, err
}

func (e *executor) le(a, b any) (bool, error) {
	order, err := e.compare(a, b)
	return order <= 0, err
}

func (e *executor) gt(a, b any) (bool, error) { return e.lt(b, a) }

func (e *executor) ge(a, b any) (bool, error) { return e.le(b, a) }
