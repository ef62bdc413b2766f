package document

func init() {
	register(format{
		name:       "text",
		mediaTypes: []string{"text/plain"},
		extensions: []string{".txt", ".text", ".log", ".json", ".xml", ".yaml", ".yml"},
		extract: func(data []byte, _ Options) (Document, *Error) {
			text, err := decode(data, "")
			return Document{Text: text}, err
		},
	})
}
