package document

import (
	"bytes"
	"strings"

	"github.com/JohannesKaufmann/html-to-markdown/v2/converter"
	"github.com/JohannesKaufmann/html-to-markdown/v2/plugin/base"
	"github.com/JohannesKaufmann/html-to-markdown/v2/plugin/commonmark"
	"github.com/JohannesKaufmann/html-to-markdown/v2/plugin/table"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
	"golang.org/x/net/html/charset"
)

func init() {
	register(format{
		name:       "html",
		mediaTypes: []string{"text/html", "application/xhtml+xml"},
		extensions: []string{".html", ".htm", ".xhtml"},
		isolated:   true,
		sniff:      func(head, _ []byte) bool { return beginsHTML(head) },
		extract: func(data []byte, _ Options) (Document, *Error) {
			_, declared, _ := charset.DetermineEncoding(data[:min(len(data), 1024)], "")
			source, err := decode(data, declared)
			if err != nil {
				return Document{}, err
			}
			title, text, err := extractHTML(source)
			return Document{Title: title, Text: text}, err
		},
	})
}

// beginsHTML reports whether a document type or an element of the frame comes first, after comments and an XML
// declaration. A fragment such as <p>text is HTML only if its name or type says so: markdown and plain text may begin
// with a tag too.
func beginsHTML(head []byte) bool {
	for {
		head = bytes.TrimLeft(head, " \t\r\n\f")
		end := ""
		switch {
		case bytes.HasPrefix(head, []byte("<!--")):
			end = "-->"
		case bytes.HasPrefix(head, []byte("<?xml")):
			end = "?>"
		default:
			for _, tag := range []string{"<!doctype html", "<html", "<head", "<body"} {
				if len(head) > len(tag) && strings.EqualFold(string(head[:len(tag)]), tag) && strings.IndexByte(" \t\r\n\f>", head[len(tag)]) >= 0 {
					return true
				}
			}
			return false
		}
		at := bytes.Index(head, []byte(end))
		if at < 0 {
			return false
		}
		head = head[at+len(end):]
	}
}

// maxElementDepth bounds how deep elements may nest. Pages of people nest some 30 levels.
const maxElementDepth = 200

// extractHTML returns the main content as markdown. Links keep their text and lose their address, images are their
// alternative text: addresses are seldom content and often differ from one fetch to the next.
func extractHTML(source string) (title, text string, err *Error) {
	if source, err = closeFormatting(source); err != nil {
		return "", "", err
	}
	root, parseErr := html.Parse(strings.NewReader(source))
	if parseErr != nil {
		return "", "", tooDeep() // reading from memory, nesting is the only error there is
	}
	title = htmlTitle(root)
	if err := prune(root); err != nil {
		return "", "", err
	}
	main := mainContent(root)
	if title == "" {
		if heading := first(main, func(n *html.Node) bool { return n.DataAtom == atom.H1 }); heading != nil {
			title = oneLine(unhide.Replace(textOf(heading)))
		}
	}
	markdown, ok := convert(main)
	if !ok {
		return "", "", errorf(CodeUnsupported, "the HTML can't be converted to text")
	}
	return title, tidy(markdown), nil
}

// convert turns a tree into markdown. The converter is for pages of people: should one of somebody else make it panic,
// that page is refused and the worker lives.
func convert(root *html.Node) (markdown string, ok bool) {
	defer func() {
		if recover() != nil {
			markdown, ok = "", false
		}
	}()
	b, err := newConverter().ConvertNode(root)
	return string(b), err == nil
}

// What the converter would spoil hides as non-characters, which decode has dropped from the document: it writes < and
// > of a text as &lt; and &gt;, which is right for a browser and noise for a model; and of a heading that ends with # it
// (v2.5.2, without escapes) overwrites the letter before, so that C# becomes \#.
var (
	hide        = strings.NewReplacer("<", "\ufdd0", ">", "\ufdd1")
	hideHeading = strings.NewReplacer("<", "\ufdd0", ">", "\ufdd1", "#", "\ufdd2")
	unhide      = strings.NewReplacer("\ufdd0", "<", "\ufdd1", ">", "\ufdd2", "#", "\u00a0", " ")
)

// tidy brings back what hide hid and drops white space at the end of lines.
func tidy(markdown string) string {
	var b strings.Builder
	b.Grow(len(markdown))
	for line := range strings.Lines(unhide.Replace(markdown)) {
		body := strings.TrimRight(line, " \t\n")
		b.WriteString(body)
		if strings.HasSuffix(line, "\n") {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

func tooDeep() *Error {
	return errorf(CodeTooComplex, "the elements of the HTML document nest deeper than %d levels", maxElementDepth)
}

func newConverter() *converter.Converter {
	return converter.NewConverter(
		converter.WithEscapeMode(converter.EscapeModeDisabled),
		converter.WithPlugins(
			base.NewBasePlugin(),
			commonmark.NewCommonmarkPlugin(commonmark.WithListEndComment(false)),
			table.NewTablePlugin(
				table.WithCellPaddingBehavior(table.CellPaddingBehaviorMinimal),
				table.WithHeaderPromotion(true),
				table.WithNewlineBehavior(table.NewlineBehaviorPreserve),
			),
		))
}

// htmlTitle returns the text of the title element.
func htmlTitle(root *html.Node) string {
	for n := range root.Descendants() {
		if n.DataAtom == atom.Title && n.Namespace == "" {
			return oneLine(textOf(n))
		}
	}
	return ""
}

func first(root *html.Node, is func(*html.Node) bool) *html.Node {
	for n := range root.Descendants() {
		if n.Type == html.ElementNode && is(n) {
			return n
		}
	}
	return nil
}

func textOf(root *html.Node) string {
	var b strings.Builder
	for n := range root.Descendants() {
		if n.Type == html.TextNode {
			b.WriteString(n.Data)
		}
	}
	return b.String()
}
