package document

import (
	"strings"

	"golang.org/x/net/html"
)

// maxTags bounds an HTML document: each tag may become an element and a text in memory, some 300 bytes.
const maxTags = 1_000_000

// maxFormatting bounds how many formatting elements are open at once.
const maxFormatting = 8

// formatting are the elements that a parser opens again in every paragraph until they are closed. Four hundred of them
// left open turn each <p> that follows into four hundred elements, so no parser may see them as they come: they are
// closed where a paragraph may end, which markdown can't show otherwise anyway.
var formatting = map[string]bool{
	"a": true, "b": true, "big": true, "code": true, "em": true, "font": true, "i": true, "nobr": true, "s": true,
	"small": true, "strike": true, "strong": true, "tt": true, "u": true,
}

// phrasing are other elements that stand within a paragraph and leave formatting as it is.
var phrasing = map[string]bool{
	"abbr": true, "bdi": true, "bdo": true, "br": true, "cite": true, "data": true, "del": true, "dfn": true, "img": true,
	"ins": true, "kbd": true, "label": true, "mark": true, "q": true, "samp": true, "span": true, "sub": true, "sup": true,
	"time": true, "var": true, "wbr": true,
}

// closeFormatting rewrites HTML so that formatting elements are closed properly, and drops comments.
func closeFormatting(source string) (string, *Error) {
	var b strings.Builder
	b.Grow(len(source) + len(source)/16)
	var open []string
	closeTo := func(n int) {
		for len(open) > n {
			b.WriteString("</" + open[len(open)-1] + ">")
			open = open[:len(open)-1]
		}
	}
	tags := 0
	for z := html.NewTokenizer(strings.NewReader(source)); ; {
		switch z.Next() {
		case html.ErrorToken: // the end: there is nothing else that reading from memory meets
			return b.String(), nil
		case html.CommentToken:
		case html.TextToken, html.DoctypeToken:
			b.Write(z.Raw())
		case html.StartTagToken, html.SelfClosingTagToken:
			if tags++; tags > maxTags {
				return "", errorf(CodeTooComplex, "the HTML document has more than %d tags", maxTags)
			}
			raw := z.Raw()
			tag, _ := z.TagName()
			switch name := string(tag); {
			case formatting[name] && len(open) >= maxFormatting:
				continue // the text goes on as it is
			case formatting[name]:
				open = append(open, name)
			case !phrasing[name]:
				closeTo(0)
			}
			b.Write(raw)
		case html.EndTagToken:
			raw := z.Raw()
			tag, _ := z.TagName()
			switch name := string(tag); {
			case formatting[name]:
				for at := len(open) - 1; at >= 0; at-- {
					if open[at] == name {
						closeTo(at)
						break
					}
				}
				continue
			case !phrasing[name]:
				closeTo(0)
			}
			b.Write(raw)
		}
	}
}
