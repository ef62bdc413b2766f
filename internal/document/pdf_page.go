package document

import (
	"encoding/hex"
	"io"
	"math"
	"regexp"
	"strings"
	"unicode/utf16"

	"github.com/ledongthuc/pdf"
)

// maxForms bounds the forms that a page draws, and maxFormDepth how deep they are in each other.
const (
	maxForms     = 1_000
	maxFormDepth = 8
)

// pdfPage puts the texts of a page together in the order in which the page draws them: a text on another height begins a line, a gap is a
// space, and a large step down a blank line. The library's own way reads a font again for each glyph.
type pdfPage struct {
	fonts map[string]*pdfFont
	out   strings.Builder
	forms int

	state pdfState
	saved []pdfState
	text  pdfMatrix // where the next glyph is, within the page's own space
	line  pdfMatrix

	drawn      bool
	endX, endY float64 // of the last glyph
}

// pdfState is what q saves and Q brings back.
type pdfState struct {
	space                            pdfMatrix
	font                             *pdfFont
	size, char, word, scale, leading float64
}

// pdfMatrix is a, b, c, d, e, f as in ISO 32000, 8.3.3.
type pdfMatrix [6]float64

func (m pdfMatrix) times(n pdfMatrix) pdfMatrix {
	return pdfMatrix{m[0]*n[0] + m[1]*n[2], m[0]*n[1] + m[1]*n[3], m[2]*n[0] + m[3]*n[2], m[2]*n[1] + m[3]*n[3],
		m[4]*n[0] + m[5]*n[2] + n[4], m[4]*n[1] + m[5]*n[3] + n[5]}
}

// draw follows a stream of operators.
func (p *pdfPage) draw(stream, resources pdf.Value, depth int) {
	if depth == 0 {
		p.state = pdfState{space: pdfMatrix{1, 0, 0, 1}, scale: 1}
	}
	pdf.Interpret(stream, func(stack *pdf.Stack, op string) {
		args := make([]pdf.Value, stack.Len())
		for i := len(args) - 1; i >= 0; i-- {
			args[i] = stack.Pop()
		}
		p.operate(op, args, resources, depth)
	})
}

func (p *pdfPage) operate(op string, args []pdf.Value, resources pdf.Value, depth int) {
	n := make([]float64, 6)
	for i := range min(len(args), 6) {
		n[i] = args[i].Float64()
	}
	s := &p.state
	switch op {
	case "q":
		if len(p.saved) < maxGroups {
			p.saved = append(p.saved, *s)
		}
	case "Q":
		if k := len(p.saved); k > 0 {
			*s, p.saved = p.saved[k-1], p.saved[:k-1]
		}
	case "cm":
		s.space = pdfMatrix(n).times(s.space)
	case "BT":
		p.text = pdfMatrix{1, 0, 0, 1}
		p.line = p.text
	case "Tf":
		if len(args) == 2 {
			s.font, s.size = p.font(resources.Key("Font").Key(args[0].Name())), n[1]
		}
	case "Tc":
		s.char = n[0]
	case "Tw":
		s.word = n[0]
	case "Tz":
		s.scale = n[0] / 100
	case "TL":
		s.leading = n[0]
	case "Tm":
		p.line = pdfMatrix(n)
		p.text = p.line
	case "TD":
		s.leading = -n[1]
		p.move(n[0], n[1])
	case "Td":
		p.move(n[0], n[1])
	case "T*":
		p.move(0, -s.leading)
	case "Tj", "'", "\"":
		if op != "Tj" {
			p.move(0, -s.leading)
		}
		if len(args) > 0 {
			p.show(args[len(args)-1].RawString())
		}
	case "TJ":
		if len(args) > 0 {
			for i := range args[0].Len() {
				if x := args[0].Index(i); x.Kind() == pdf.String {
					p.show(x.RawString())
				} else {
					p.advance(-x.Float64() / 1000 * s.size)
				}
			}
		}
	case "Do":
		if len(args) == 1 {
			p.form(resources.Key("XObject").Key(args[0].Name()), resources, depth)
		}
	}
}

// form draws a stream within the page.
func (p *pdfPage) form(x, resources pdf.Value, depth int) {
	if p.forms++; x.Key("Subtype").Name() != "Form" || depth >= maxFormDepth || p.forms > maxForms {
		return
	}
	if own := x.Key("Resources"); own.Kind() == pdf.Dict {
		resources = own
	}
	before, saved := p.state, p.saved
	if m := x.Key("Matrix"); m.Len() == 6 {
		var matrix pdfMatrix
		for i := range matrix {
			matrix[i] = m.Index(i).Float64()
		}
		p.state.space = matrix.times(p.state.space)
	}
	p.saved = nil
	p.draw(x, resources, depth+1)
	p.state, p.saved = before, saved
}

func (p *pdfPage) move(x, y float64) {
	p.line = pdfMatrix{1, 0, 0, 1, x, y}.times(p.line)
	p.text = p.line
}

func (p *pdfPage) advance(width float64) {
	p.text = pdfMatrix{1, 0, 0, 1, width * p.state.scale}.times(p.text)
}

// show writes a string, and what separates it from the one before.
func (p *pdfPage) show(raw string) {
	s := &p.state
	if s.font == nil {
		return
	}
	at := p.text.times(s.space)
	size := s.size * math.Hypot(at[2], at[3])
	text, width, glyphs, spaces := s.font.decode(raw)
	if text == "" {
		p.advance(width*s.size + float64(glyphs)*s.char)
		return
	}
	down, gap := math.Abs(p.endY-at[5]), at[4]-p.endX
	switch {
	case !p.drawn:
	case down > 1.7*size:
		p.out.WriteString("\n\n")
	case down > 0.5*size || gap < -2*size:
		p.out.WriteByte('\n')
	case gap > 0.15*size && !strings.HasPrefix(text, " ") && !strings.HasSuffix(p.out.String(), " "):
		p.out.WriteByte(' ')
	}
	if p.out.Len() <= MaxBytes {
		p.out.WriteString(text)
	}
	p.advance(width*s.size + float64(glyphs)*s.char + float64(spaces)*s.word)
	end := p.text.times(s.space)
	p.drawn, p.endX, p.endY = true, end[4], end[5]
}

// pdfFont is a font, read once.
type pdfFont struct {
	unicode map[string]string // what its codes mean, when it says so
	longest int               // code, in bytes
	encoder pdf.TextEncoding  // when it doesn't
	widths  map[int]float64   // of codes, in ems
	missing float64
	bytes   int // of a code, for widths
}

// font returns a font of the page. Fonts are told apart by what they are made of: references within them are unique.
func (p *pdfPage) font(v pdf.Value) *pdfFont {
	if v.Kind() != pdf.Dict {
		return nil
	}
	id := v.String()
	f := p.fonts[id]
	if f == nil {
		f = readFont(v)
		p.fonts[id] = f
	}
	return f
}

func readFont(v pdf.Value) *pdfFont {
	f := &pdfFont{widths: map[int]float64{}, missing: 0.5, bytes: 1}
	if v.Key("Subtype").Name() == "Type0" {
		f.bytes = 2
		f.readWide(v.Key("DescendantFonts").Index(0))
	} else {
		first := int(v.Key("FirstChar").Int64())
		widths := v.Key("Widths")
		for i := range min(widths.Len(), 256) {
			f.widths[first+i] = widths.Index(i).Float64() / 1000
		}
	}
	if u := v.Key("ToUnicode"); u.Kind() == pdf.Stream {
		f.readUnicode(u)
	}
	if len(f.unicode) == 0 {
		font := pdf.Font{V: v}
		f.encoder = font.Encoder()
	}
	return f
}

// readWide reads the widths of a font with codes of two bytes: [first [w w ...]] or [first last w].
func (f *pdfFont) readWide(v pdf.Value) {
	f.missing = 1
	if dw := v.Key("DW"); !dw.IsNull() {
		f.missing = dw.Float64() / 1000
	}
	w := v.Key("W")
	set := 0 // a font has 65,536 codes
	for i := 0; i+1 < w.Len() && set < 1<<17; {
		first := int(w.Index(i).Int64())
		if list := w.Index(i + 1); list.Kind() == pdf.Array {
			for j := range min(list.Len(), 1<<16) {
				f.widths[first+j] = list.Index(j).Float64() / 1000
				set++
			}
			i, set = i+2, set+1
			continue
		}
		last, width := int(w.Index(i+1).Int64()), w.Index(i+2).Float64()/1000
		for c := max(first, 0); c <= min(last, 1<<16); c++ {
			f.widths[c] = width
			set++
		}
		i, set = i+3, set+1
	}
}

// maxCMap is how much of a table of what codes mean is read, in bytes.
const maxCMap = 4 << 20

var (
	cmapSection = regexp.MustCompile(`(?s)begin(bfchar|bfrange)(.*?)endbf`)
	cmapToken   = regexp.MustCompile(`<([0-9A-Fa-f\s]*)>|\[|\]`)
)

// readUnicode reads a table of what codes mean (ISO 32000, 9.10.3). It is a program in PostScript, of which only the tables matter.
func (f *pdfFont) readUnicode(stream pdf.Value) {
	r := stream.Reader()
	defer func() { _ = r.Close() }()
	table, _ := io.ReadAll(io.LimitReader(r, maxCMap)) // as much as there is of a broken one
	f.unicode = map[string]string{}
	f.readTable(table)
}

func (f *pdfFont) readTable(table []byte) {
	for _, section := range cmapSection.FindAllSubmatch(table, -1) {
		var args []string
		list := -1 // where the one that is open begins
		for _, token := range cmapToken.FindAllSubmatch(section[2], -1) {
			switch token[0][0] {
			case '[':
				list = len(args)
			case ']':
				if list >= 2 {
					f.meanEach(args[list-2], args[list:])
				}
				args, list = nil, -1
			default:
				code, _ := hex.DecodeString(strings.Join(strings.Fields(string(token[1])), ""))
				args = append(args, string(code))
				switch {
				case list >= 0:
				case string(section[1]) == "bfchar" && len(args) == 2:
					f.mean(args[0], args[1], 0)
					args = nil
				case len(args) == 3:
					f.meanRange(args[0], args[1], args[2])
					args = nil
				}
			}
		}
	}
}

func (f *pdfFont) meanRange(low, high, text string) {
	if len(low) != len(high) {
		return
	}
	first := number16(low)
	for c := first; c <= number16(high); c++ {
		f.mean(codeAt(c, len(low)), text, c-first)
	}
}

func (f *pdfFont) meanEach(low string, texts []string) {
	for i, text := range texts {
		f.mean(codeAt(number16(low)+i, len(low)), text, 0)
	}
}

// codeAt is a code of so many bytes, of which there may be one or two.
func codeAt(c, size int) string {
	switch size {
	case 1:
		return string([]byte{byte(c)}) //nolint:gosec // codes of one byte
	case 2:
		return string([]byte{byte(c >> 8), byte(c)}) //nolint:gosec // codes of two bytes
	}
	return ""
}

// mean notes that a code means a text in UTF-16, whose last unit is so much higher.
func (f *pdfFont) mean(code, text string, higher int) {
	if len(code) == 0 || len(code) > 4 || len(text) < 2 || len(text) > 32 || len(f.unicode) > 1<<16 {
		return
	}
	u := make([]uint16, len(text)/2)
	for i := range u {
		u[i] = uint16(text[2*i])<<8 | uint16(text[2*i+1])
	}
	u[len(u)-1] += uint16(higher) //nolint:gosec // as much as two bytes
	f.unicode[code] = string(utf16.Decode(u))
	f.longest = max(f.longest, len(code))
}

func number16(code string) int {
	n := 0
	for i := range min(len(code), 2) {
		n = n<<8 | int(code[i])
	}
	return n
}

// decode returns what a string says, its width in ems, how many glyphs it has, and how many of them are spaces of one byte.
func (f *pdfFont) decode(raw string) (text string, width float64, glyphs, spaces int) {
	for i := 0; i+f.bytes <= len(raw); i += f.bytes {
		code := number16(raw[i : i+f.bytes])
		w, ok := f.widths[code]
		if !ok {
			w = f.missing
		}
		width += w
		glyphs++
		if f.bytes == 1 && code == ' ' {
			spaces++
		}
	}
	if f.encoder != nil {
		return strings.Map(visible, f.encoder.Decode(raw)), width, glyphs, spaces
	}
	var b strings.Builder
	for i := 0; i < len(raw); {
		step := f.bytes
		for n := min(f.longest, len(raw)-i); n > 0; n-- {
			if meaning, ok := f.unicode[raw[i:i+n]]; ok {
				b.WriteString(meaning)
				step = n
				break
			}
		}
		i += step
	}
	return strings.Map(visible, b.String()), width, glyphs, spaces
}

// visible drops the control characters that stand for nothing.
func visible(r rune) rune {
	if r < ' ' {
		return -1
	}
	return r
}
