package document

import (
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// notContent are the elements that are removed with all that is in them.
var notContent = map[atom.Atom]bool{
	atom.Head: true, atom.Script: true, atom.Style: true, atom.Template: true, atom.Noscript: true, atom.Link: true, atom.Meta: true,
	atom.Nav: true, atom.Header: true, atom.Footer: true, atom.Aside: true, atom.Dialog: true,
	atom.Iframe: true, atom.Object: true, atom.Embed: true, atom.Applet: true, atom.Canvas: true, atom.Svg: true,
	atom.Audio: true, atom.Video: true, atom.Map: true,
	atom.Button: true, atom.Input: true, atom.Select: true, atom.Textarea: true, atom.Datalist: true,
}

// notContentRoles are the ARIA roles of page furniture.
var notContentRoles = map[string]bool{
	"navigation": true, "banner": true, "contentinfo": true, "complementary": true, "search": true, "menu": true,
	"menubar": true, "toolbar": true, "dialog": true, "alertdialog": true,
}

// prune removes what isn't content from a tree, replaces links and images by their text, and refuses one that nests
// too deep. It doesn't recurse.
func prune(root *html.Node) *Error {
	depth := 0
	for n := root; n != nil; {
		if n.FirstChild != nil && !furniture(n) {
			if depth++; depth > maxElementDepth {
				return tooDeep()
			}
			n = n.FirstChild
			continue
		}
		// n is done: go on to the next sibling, its parent's next sibling, and so on.
		for n != nil {
			next, parent := n.NextSibling, n.Parent
			finish(n)
			if n == root {
				return nil
			}
			if next != nil {
				n = next
				break
			}
			n = parent
			depth--
		}
	}
	return nil
}

// finish changes a node whose descendants are done.
func finish(n *html.Node) {
	switch {
	case n.Parent == nil:
	case n.Type == html.CommentNode || n.Type == html.DoctypeNode || furniture(n):
		n.Parent.RemoveChild(n)
	case n.DataAtom == atom.Img:
		alt := strings.Join(strings.Fields(attribute(n, "alt")), " ")
		*n = html.Node{Type: html.TextNode, Data: alt, Parent: n.Parent, PrevSibling: n.PrevSibling, NextSibling: n.NextSibling}
	case n.DataAtom == atom.A:
		rename(n, atom.Span)
	case n.DataAtom == atom.Blockquote || n.DataAtom == atom.Ul || n.DataAtom == atom.Ol || n.DataAtom == atom.Li:
		if indented(n) > maxIndented {
			rename(n, atom.Div)
		}
	case n.DataAtom == atom.Summary:
		rename(n, atom.P)
	case n.DataAtom == atom.Td || n.DataAtom == atom.Th:
		n.Attr = nil // a row or column span may ask for a table of billions of cells
	case n.DataAtom == atom.Table:
		finishTable(n)
	}
	if n.Type == html.TextNode {
		hideText(n)
	}
}

// hideText hides what the converter would spoil in a text, except in code, which it leaves alone.
func hideText(n *html.Node) {
	replacer := hide
	for a := range n.Ancestors() {
		switch {
		case a.DataAtom == atom.Code || a.DataAtom == atom.Pre:
			return
		case isHeading(a):
			replacer = hideHeading
		}
	}
	n.Data = replacer.Replace(n.Data)
}

// maxIndented bounds how deep quotes and lists may nest as such, for each level writes its mark on every line. What is
// deeper is written at that level.
const maxIndented = 10

// indented counts the quotes and lists around n.
func indented(n *html.Node) int {
	levels := 0
	for a := range n.Ancestors() {
		switch a.DataAtom {
		case atom.Blockquote, atom.Ul, atom.Ol:
			levels++
		}
	}
	return levels
}

func rename(n *html.Node, to atom.Atom) {
	n.Data, n.DataAtom, n.Attr = to.String(), to, nil
}

// finishTable escapes what would end a cell. A table that would be mostly padding becomes paragraphs, as does one with a
// table inside, which markdown has no form for: a first row of many columns makes all rows as wide.
func finishTable(table *html.Node) {
	rows, cells, columns, widest, nested := 0, 0, 0, 0, false
	for n := range table.Descendants() {
		switch n.DataAtom {
		case atom.Tr:
			rows++
			columns = 0
		case atom.Td, atom.Th:
			cells++
			columns++
			widest = max(widest, columns)
		case atom.Table:
			nested = true
		}
	}
	paragraphs := nested || rows*widest > 4*cells+100
	for n := range table.Descendants() {
		switch n.DataAtom {
		case atom.Caption, atom.Thead, atom.Tbody, atom.Tfoot, atom.Tr, atom.Td, atom.Th, atom.Table:
			if paragraphs {
				rename(n, atom.Div)
			}
		case 0:
			if n.Type == html.TextNode && !paragraphs {
				n.Data = strings.ReplaceAll(n.Data, "|", `\|`)
			}
		}
	}
	if paragraphs {
		rename(table, atom.Div)
	}
}

func furniture(n *html.Node) bool {
	if n.Type != html.ElementNode {
		return false
	}
	if n.DataAtom == atom.Header && headsContent(n) {
		return false
	}
	if notContent[n.DataAtom] || n.Data == "svg" {
		return true
	}
	for _, a := range n.Attr {
		switch {
		case a.Key == "hidden", a.Key == "aria-hidden" && a.Val == "true", a.Key == "role" && notContentRoles[strings.ToLower(a.Val)]:
			return true
		}
	}
	return false
}

// headsContent reports whether a header is that of an article and not of the page: then it holds the heading.
func headsContent(header *html.Node) bool {
	inside := false
	for n := range header.Ancestors() {
		inside = inside || n.DataAtom == atom.Article || n.DataAtom == atom.Main
	}
	return inside && first(header, isHeading) != nil
}

func isHeading(n *html.Node) bool {
	switch n.DataAtom {
	case atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6:
		return true
	}
	return false
}

func attribute(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

// mainContent returns the element that holds the content of a pruned page: main, or the only article, if it has at
// least half of the text; else everything.
func mainContent(root *html.Node) *html.Node {
	total := textSize(root)
	isMain := func(n *html.Node) bool { return n.DataAtom == atom.Main || attribute(n, "role") == "main" }
	if main := first(root, isMain); main != nil && 2*textSize(main) >= total {
		return main
	}
	if article := first(root, func(n *html.Node) bool { return n.DataAtom == atom.Article }); article != nil && 2*textSize(article) >= total {
		return article
	}
	return root
}

func textSize(root *html.Node) int {
	size := 0
	for n := range root.Descendants() {
		if n.Type == html.TextNode {
			size += len(strings.TrimSpace(n.Data))
		}
	}
	return size
}
