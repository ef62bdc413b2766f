package document

import (
	"bytes"
	"encoding/xml"
	"net/url"
	"path"
	"strings"

	"golang.org/x/net/html/charset"
)

func init() {
	register(format{
		name:       "epub",
		mediaTypes: []string{"application/epub+zip"},
		extensions: []string{".epub"},
		isolated:   true,
		sniff: func(head, data []byte) bool {
			return bytes.HasPrefix(head, []byte("PK\x03\x04")) && bytes.Contains(head[:min(len(head), 256)], []byte("application/epub+zip")) ||
				zipped("meta-inf/container.xml")(head, data)
		},
		extract: extractEPUB,
	})
}

// extractEPUB returns the chapters in the order of the book, each as HTML is read; the table of contents is left out.
func extractEPUB(data []byte, _ Options) (Document, *Error) {
	a, err := openArchive(data)
	if err != nil {
		return Document{}, err
	}
	if err := refuseEncrypted(a); err != nil {
		return Document{}, err
	}
	root := ""
	if err := a.each("META-INF/container.xml", func(e xml.StartElement) {
		if e.Name.Local == "rootfile" && root == "" {
			root = attr(e, "full-path")
		}
	}, nil, nil); err != nil {
		return Document{}, err
	}
	b, err := readPackage(a, root)
	if err != nil {
		return Document{}, err
	}
	doc := Document{Title: strings.TrimSpace(b.title.String())}
	var out strings.Builder
	for _, id := range b.spine {
		chapter := b.items[id]
		if chapter.nav || chapter.href == "" {
			continue
		}
		page, err := a.read(path.Join(path.Dir(root), chapter.href))
		if err != nil {
			return Document{}, err
		}
		_, declared, _ := charset.DetermineEncoding(page[:min(len(page), 1024)], "")
		source, err := decode(page, declared)
		if err != nil {
			return Document{}, err
		}
		title, text, err := extractHTML(source)
		if err != nil {
			return Document{}, err
		}
		if doc.Title == "" {
			doc.Title = title
		}
		if text = strings.TrimSpace(text); text != "" {
			out.WriteString(text + "\n\n")
		}
		if out.Len() > MaxBytes {
			return Document{}, errorf(CodeTooLarge, "the text of the document has more than %d bytes", MaxBytes)
		}
	}
	doc.Text = out.String()
	return doc, nil
}

// book is what the package document of an EPUB says.
type book struct {
	title strings.Builder
	items map[string]chapter
	spine []string
}

type chapter struct {
	href string
	nav  bool
}

func readPackage(a *archive, root string) (*book, *Error) {
	if a.files[entryName(root)] == nil {
		return nil, damaged("it has no package document")
	}
	b := &book{items: map[string]chapter{}}
	inTitle := false
	err := a.each(root, func(e xml.StartElement) {
		inTitle = e.Name.Local == "title" && b.title.Len() == 0
		switch e.Name.Local {
		case "item":
			href, err := url.PathUnescape(attr(e, "href"))
			if err == nil && strings.Contains(attr(e, "media-type"), "html") {
				b.items[attr(e, "id")] = chapter{href, strings.Contains(" "+attr(e, "properties")+" ", " nav ")}
			}
		case "itemref":
			if len(b.spine) < maxEntries {
				b.spine = append(b.spine, attr(e, "idref"))
			}
		}
	}, func(string) { inTitle = false }, func(text []byte) {
		if inTitle && b.title.Len() < 2*maxTitle {
			b.title.Write(text)
		}
	})
	return b, err
}

// refuseEncrypted refuses a book with protected chapters. Fonts may be obfuscated in any.
func refuseEncrypted(a *archive) *Error {
	locked, method := false, ""
	err := a.each("META-INF/encryption.xml", func(e xml.StartElement) {
		switch e.Name.Local {
		case "EncryptionMethod":
			method = attr(e, "Algorithm")
		case "CipherReference":
			locked = locked || method != "http://www.idpf.org/2008/embedding" && method != "http://ns.adobe.com/pdf/enc#RC"
		}
	}, nil, nil)
	if err == nil && locked {
		err = errorf(CodeEncrypted, "the book is protected (DRM): submit it without protection")
	}
	return err
}
