package document

func init() {
	register(format{
		name:       "text",
		mediaTypes: []string{"text/plain"},
		extensions: []string{".txt", ".text", ".log", ".csv", ".tsv", ".json", ".xml", ".yaml", ".yml"},
		extract: func(data []byte) (title, text string, err *Error) {
			text, err = decode(data)
			return "", text, err
		},
	})
}
