package prompt

import (
	"fmt"
	"strings"
	"text/template/parse"
)

// maxNesting bounds how deep if, with, range and parentheses may nest in a template.
const maxNesting = 64

// checker walks the tree of one template: only known functions with the right number of arguments, only declared
// variables, no templates in templates. On the way it puts two functions of ours into the tree: printed values go
// through asText, and what a range walks goes through asItems, which also bounds the work.
type checker struct {
	template *Template
	field    string
	lines    bool // the text has several: then an error names one
	used     *seen
	nodes    int // seen so far

	unordered []int // lines of loops over objects
}

func (c *checker) errorf(line int, format string, args ...any) *Error {
	if c.lines {
		format = fmt.Sprintf("line %d: ", line) + format
	}
	return errorf(c.field, format, args...)
}

// scope says what the dot is.
type scope struct {
	root  bool // the variables of the job; else something inside them
	depth int
}

func (c *checker) check(root *parse.ListNode) *Error {
	return c.list(root, scope{root: true})
}

func (c *checker) list(list *parse.ListNode, in scope) *Error {
	if list == nil {
		return nil
	}
	if in.depth > maxNesting {
		return errorf(c.field, "nests deeper than %d levels", maxNesting)
	}
	for _, node := range list.Nodes {
		c.nodes++
		if err := c.node(node, in); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) node(node parse.Node, in scope) *Error {
	switch n := node.(type) {
	case *parse.ActionNode:
		if err := c.pipe(n.Pipe, in); err != nil {
			return err
		}
		if len(n.Pipe.Decl) == 0 {
			n.Pipe.Cmds = append(n.Pipe.Cmds, command(n.Pipe, asText))
		}
	case *parse.IfNode:
		if err := c.pipe(n.Pipe, in); err != nil {
			return err
		}
		return c.branches(&n.BranchNode, in, in)
	case *parse.WithNode:
		if err := c.pipe(n.Pipe, in); err != nil {
			return err
		}
		return c.branches(&n.BranchNode, scope{root: in.root && isRoot(n.Pipe), depth: in.depth}, in)
	case *parse.RangeNode:
		if err := c.pipe(n.Pipe, in); err != nil {
			return err
		}
		if err := c.iterable(n.Pipe, in); err != nil {
			return err
		}
		before := c.nodes
		if err := c.branches(&n.BranchNode, scope{depth: in.depth}, in); err != nil {
			return err
		}
		n.Pipe.Cmds = append(n.Pipe.Cmds, command(n.Pipe, asItems, number(n.Pipe, c.nodes-before+1)))
	case *parse.TemplateNode:
		return c.errorf(n.Line, "template is not available: a template is one text")
	}
	return nil
}

func (c *checker) branches(n *parse.BranchNode, body, otherwise scope) *Error {
	body.depth++
	otherwise.depth++
	if err := c.list(n.List, body); err != nil {
		return err
	}
	return c.list(n.ElseList, otherwise)
}

// isRoot reports whether a pipe's value is the dot or $ itself.
func isRoot(pipe *parse.PipeNode) bool {
	if len(pipe.Cmds) != 1 || len(pipe.Cmds[0].Args) != 1 {
		return false
	}
	switch n := pipe.Cmds[0].Args[0].(type) {
	case *parse.DotNode:
		return true
	case *parse.VariableNode:
		return len(n.Ident) == 1 && n.Ident[0] == "$"
	}
	return false
}

func (c *checker) pipe(pipe *parse.PipeNode, in scope) *Error {
	if pipe == nil {
		return nil
	}
	if in.depth++; in.depth > maxNesting {
		return errorf(c.field, "nests deeper than %d levels", maxNesting)
	}
	for i, cmd := range pipe.Cmds {
		piped := 0
		if i > 0 {
			piped = 1
		}
		for j, arg := range cmd.Args {
			c.nodes++
			args := 0
			if j == 0 {
				args = len(cmd.Args) - 1 + piped
			}
			if err := c.operand(arg, args, pipe.Line, in); err != nil {
				return err
			}
		}
	}
	return nil
}

// operand checks one word of a command; args is how many arguments follow it, the piped one included.
func (c *checker) operand(node parse.Node, args, line int, in scope) *Error {
	if id, ok := node.(*parse.IdentifierNode); ok {
		return c.call(id.Ident, args, line)
	}
	switch n := node.(type) {
	case *parse.FieldNode:
		if in.root {
			if err := c.variable(n.Ident, line); err != nil {
				return err
			}
		}
	case *parse.VariableNode:
		if n.Ident[0] == "$" {
			if len(n.Ident) == 1 {
				c.useAll()
			} else if err := c.variable(n.Ident[1:], line); err != nil {
				return err
			}
		}
	case *parse.DotNode:
		if in.root {
			c.useAll()
		}
	case *parse.ChainNode:
		if err := c.operand(n.Node, 0, line, in); err != nil {
			return err
		}
	case *parse.PipeNode:
		if err := c.pipe(n, in); err != nil {
			return err
		}
	}
	if args > 0 {
		return c.errorf(line, "%s is a value, it takes no arguments", node)
	}
	return nil
}

func (c *checker) useAll() {
	for i := range c.template.names {
		c.used.add(i)
	}
}

// variable checks the path .name.member.member.
func (c *checker) variable(path []string, line int) *Error {
	i, known := c.template.index[path[0]]
	if !known {
		return c.errorf(line, "variable %q is used but not declared%s", path[0], didYouMean(path[0], c.template.names))
	}
	c.used.add(i)
	if t := c.template.variables[i].typ; len(path) > 1 && t != TypeObject {
		return c.errorf(line, "variable %q has the type %s, so it has no member %q", path[0], t, path[1])
	}
	return nil
}

// iterable refuses a range over a variable that is neither an array nor an object.
func (c *checker) iterable(pipe *parse.PipeNode, in scope) *Error {
	if len(pipe.Cmds) != 1 || len(pipe.Cmds[0].Args) != 1 {
		return nil
	}
	var name string
	switch n := pipe.Cmds[0].Args[0].(type) {
	case *parse.FieldNode:
		if in.root && len(n.Ident) == 1 {
			name = n.Ident[0]
		}
	case *parse.VariableNode:
		if len(n.Ident) == 2 && n.Ident[0] == "$" {
			name = n.Ident[1]
		}
	}
	if name == "" {
		return nil
	}
	switch t := c.template.spec.Variables[name].Type; t {
	case TypeArray:
	case TypeObject:
		c.unordered = append(c.unordered, pipe.Line)
	default:
		return c.errorf(pipe.Line, "range needs an array or an object, but variable %q has the type %s", name, t)
	}
	return nil
}

func (c *checker) call(name string, args, line int) *Error {
	allowed, known := arities[name]
	switch {
	case !known:
		return c.errorf(line, "function %q is not available%s; there are %s", name,
			didYouMean(name, functionNames), strings.Join(functionNames, ", "))
	case args < allowed.min:
		return c.errorf(line, "function %q needs %d arguments, got %d", name, allowed.min, args)
	case allowed.max >= 0 && args > allowed.max:
		return c.errorf(line, "function %q takes %d arguments, got %d", name, allowed.max, args)
	}
	return nil
}

// command makes the call that is put at the end of a pipe.
func command(pipe *parse.PipeNode, function string, args ...parse.Node) *parse.CommandNode {
	id := parse.NewIdentifier(function).SetTree(nil).SetPos(pipe.Pos)
	return &parse.CommandNode{NodeType: parse.NodeCommand, Pos: pipe.Pos, Args: append([]parse.Node{id}, args...)}
}

func number(pipe *parse.PipeNode, n int) parse.Node {
	return &parse.NumberNode{
		NodeType: parse.NodeNumber, Pos: pipe.Pos, IsInt: true, IsUint: true, IsFloat: true,
		Int64: int64(n), Uint64: uint64(n), Float64: float64(n), Text: "n",
	}
}

// knownFunctions is what the parser accepts, those of text/template included; call tells the author which of them are
// available.
var knownFunctions = func() map[string]any {
	known := map[string]any{"call": true, "html": true, "js": true, "urlquery": true}
	for name := range arities {
		known[name] = true
	}
	return known
}()
