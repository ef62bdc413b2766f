package prompt

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"text/template"
	"text/template/parse"
	"unicode/utf8"
)

// source is one compiled template text.
type source struct {
	field string // "system" or "user"
	lines bool   // the text has several

	// segments is the whole template when it is only text and {{.name}}, as most are; then text/template, which is
	// twenty times slower, isn't needed.
	segments []segment

	literal int  // bytes at the start of what it renders that are the same for all jobs
	whole   bool // and nothing comes behind them

	// For the lint.
	text      string
	head      int   // bytes of text before the first action
	behind    int   // estimated tokens of the texts between and behind actions
	unordered []int // lines of loops over objects

	tree      *parse.Tree
	executors sync.Pool // of *executor
}

// segment is a text or, if variable isn't negative, the value of a variable.
type segment struct {
	text     string
	variable int
}

// parse checks a template text and notes the variables that it uses.
func (t *Template) parse(field, text string, used *seen) (*source, *Error) {
	several := strings.Contains(text, "\n")
	trees, err := parse.Parse(field, text, "", "", knownFunctions)
	if err != nil {
		return nil, errorf(field, "%s", explain(field, err, several))
	}
	tree := trees[field]
	if len(trees) != 1 || tree == nil {
		return nil, errorf(field, "define and block are not available: a template is one text")
	}
	if tree.Root == nil {
		return &source{field: field, lines: several, segments: []segment{}, whole: true, text: text}, nil
	}
	s := &source{field: field, lines: several, segments: t.segments(tree.Root), text: text}
	s.measure(tree.Root)
	c := checker{template: t, field: field, lines: several, used: used}
	if err := c.check(tree.Root); err != nil {
		return nil, err
	}
	s.unordered = c.unordered
	if s.segments == nil {
		s.tree = tree
	}
	return s, nil
}

// segments returns the template as text and plain values, or nil if there is more to it.
func (t *Template) segments(root *parse.ListNode) []segment {
	segments := make([]segment, 0, len(root.Nodes))
	for _, node := range root.Nodes {
		switch n := node.(type) {
		case *parse.TextNode:
			segments = append(segments, segment{text: string(n.Text), variable: -1})
		case *parse.ActionNode:
			if len(n.Pipe.Decl) > 0 || len(n.Pipe.Cmds) != 1 || len(n.Pipe.Cmds[0].Args) != 1 {
				return nil
			}
			name, ok := n.Pipe.Cmds[0].Args[0].(*parse.FieldNode)
			if !ok || len(name.Ident) != 1 {
				return nil
			}
			i, known := t.index[name.Ident[0]]
			if !known {
				return nil
			}
			segments = append(segments, segment{variable: i})
		default:
			return nil
		}
	}
	return segments
}

// measure finds where the text that is the same for all jobs ends.
func (s *source) measure(root *parse.ListNode) {
	s.whole, s.head = true, len(s.text)
	for _, node := range root.Nodes {
		text, ok := node.(*parse.TextNode)
		switch {
		case ok && s.whole:
			s.literal += len(text.Text)
		case ok:
			s.behind += EstimateTokens(string(text.Text))
		case s.whole:
			s.whole = false
			s.head = strings.LastIndex(s.text[:node.Position()], "{{")
		}
	}
}

// render returns the text for these inputs, of at most room bytes.
func (s *source) render(t *Template, inputs []input, room int) (string, *Error) {
	if s.segments != nil {
		return s.renderSegments(inputs, room)
	}
	e, ok := s.executors.Get().(*executor)
	if !ok {
		e = newExecutor(s.tree)
	}
	text, err := e.run(t, inputs, room)
	s.executors.Put(e)
	if err != nil {
		if errors.Is(err, errTooLong) {
			return "", s.tooLong()
		}
		return "", errorf(s.field, "%s", explain(s.field, err, s.lines))
	}
	if !utf8.ValidString(text) {
		return "", errorf(s.field, "the rendered message is not valid UTF-8: the template has bytes such as \\xff or cuts a character in two")
	}
	return text, nil
}

func (s *source) renderSegments(inputs []input, room int) (string, *Error) {
	buffer := borrowBuffer()
	defer giveBackBuffer(buffer)
	b := (*buffer)[:0]
	for _, part := range s.segments {
		if part.variable < 0 {
			b = append(b, part.text...)
		} else {
			b = inputs[part.variable].append(b)
		}
		if len(b) > room {
			*buffer = b
			return "", s.tooLong()
		}
	}
	*buffer = b
	return string(b), nil
}

func (s *source) tooLong() *Error {
	return errorf(s.field, "the messages of one job are at most %d bytes; these are longer", MaxRendered)
}

// append appends the text of a value.
func (in input) append(b []byte) []byte {
	switch {
	case in.raw == nil:
		return append(b, in.kind.empty()...)
	case in.kind == kindString:
		b, _ = appendUnquoted(b, in.raw)
		return b
	case in.kind == kindArray || in.kind == kindObject:
		return appendStable(b, in.raw)
	}
	return append(b, in.raw...)
}

// empty is what a value that isn't given prints.
func (k kind) empty() string {
	switch k {
	case kindBoolean:
		return "false"
	case kindArray:
		return "[]"
	case kindObject:
		return "{}"
	}
	return ""
}

// absent is the type of a nil that stands for a number that isn't given: it is false, prints nothing and is null in
// JSON, which an empty json.Number is not.
type absent struct{}

// value is the input as a template function sees it: string, json.Number or *absent, bool, []any or map[string]any.
func (in input) value() any {
	switch in.kind {
	case kindString:
		if in.raw == nil {
			return ""
		}
		text, _ := appendUnquoted(nil, in.raw)
		return string(text)
	case kindNumber:
		if in.raw == nil {
			return (*absent)(nil)
		}
		return json.Number(in.raw)
	case kindBoolean:
		return string(in.raw) == "true"
	}
	raw := in.raw
	if raw == nil {
		raw = []byte(in.kind.empty())
	}
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		panic("prompt: checked JSON does not decode: " + err.Error())
	}
	return v
}

// explain turns an error of text/template into ours: "line 3: join: …" without the package's own words.
func explain(field string, err error, lines bool) string {
	text := strings.TrimPrefix(err.Error(), "template: ")
	rest, ok := strings.CutPrefix(text, field+":")
	if !ok {
		return text
	}
	position, what, ok := strings.Cut(rest, ": ")
	if !ok {
		return rest
	}
	what = strings.TrimPrefix(what, `executing "`+field+`" `)
	if _, call, ok := strings.Cut(what, "error calling "); ok {
		name, reason, _ := strings.Cut(call, ": ")
		if what = call; name == asText || name == asItems {
			what = reason
		}
	}
	if strings.HasPrefix(what, "function ") && strings.HasSuffix(what, " not defined") {
		what += "; there are " + strings.Join(functionNames, ", ")
	}
	if lines {
		line, _, _ := strings.Cut(position, ":")
		what = "line " + line + ": " + what
	}
	return what
}

// executor runs a template that needs text/template. Its functions share its budget, so it serves one render at a
// time.
type executor struct {
	budget
	template *template.Template
	out      []byte
	room     int
}

func newExecutor(tree *parse.Tree) *executor {
	e := new(executor)
	t := template.New(tree.Name).Option("missingkey=error").Funcs(e.functions())
	var err error
	if e.template, err = t.AddParseTree(tree.Name, tree); err != nil {
		panic("prompt: checked template is refused: " + err.Error())
	}
	return e
}

var errTooLong = errors.New("too long")

// Write takes what the template prints.
func (e *executor) Write(p []byte) (int, error) {
	if len(p) > e.room-len(e.out) {
		return 0, errTooLong
	}
	e.out = append(e.out, p...)
	return len(p), nil
}

func (e *executor) run(t *Template, inputs []input, room int) (string, error) {
	e.budget, e.out, e.room = newBudget(), e.out[:0], room
	data := make(map[string]any, len(t.names))
	for i, name := range t.names {
		data[name] = inputs[i].value()
	}
	err := e.template.Execute(e, data)
	text := string(e.out)
	if cap(e.out) > maxPooled {
		e.out = nil
	}
	return text, err
}

// functionNames are in error messages.
var functionNames = func() []string {
	names := make([]string, 0, len(arities))
	for name := range arities {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}()
