package document

import (
	"bytes"
	"regexp"
	"strings"

	"github.com/JohannesKaufmann/html-to-markdown/v2/converter"
	"github.com/JohannesKaufmann/html-to-markdown/v2/plugin/base"
	"github.com/JohannesKaufmann/html-to-markdown/v2/plugin/commonmark"
	"github.com/JohannesKaufmann/html-to-markdown/v2/plugin/table"
	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

func init() {
	register(format{
		name:       "html",
		mediaTypes: []string{"text/html", "application/xhtml+xml"},
		extensions: []string{".html", ".htm", ".xhtml"},
		sniff:      htmlBegins.Match,
		extract:    extractHTML,
	})
}

// htmlBegins matches a document type or root element, after comments and an XML declaration. A fragment such as
// <p>text is HTML only if its name or type says so: markdown and plain text may begin with a tag too.
var htmlBegins = regexp.MustCompile(`(?is)^\s*(<\?xml[^>]*>\s*)?(<!--.{0,1000}?-->\s*)*<(!doctype\s+html|html|head|body)[\s>]`)

// maxElementDepth bounds how deep elements may nest. Pages of people nest some 30 levels.
const maxElementDepth = 200

// extractHTML returns the main content as markdown. Links keep their text and lose their address, images are their
// alternative text: addresses are seldom content and often differ from one fetch to the next.
func extractHTML(data []byte) (title, text string, err *Error) {
	source, err := decode(data)
	if err != nil {
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
			title = oneLine(textOf(heading))
		}
	}
	markdown, convertErr := newConverter().ConvertNode(main)
	if convertErr != nil {
		return "", "", errorf(CodeUnsupported, "the HTML can't be converted to text")
	}
	text, err = clean(string(bytes.ReplaceAll(markdown, []byte("\u00a0"), []byte(" "))))
	return title, text, err
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
