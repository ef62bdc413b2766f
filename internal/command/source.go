package command

import (
	"encoding/json"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// sourceFlags say where a batch's jobs come from.
type sourceFlags struct {
	urls  []string
	query string
}

func (s *sourceFlags) define(c *cobra.Command) {
	f := c.Flags()
	f.StringSliceVar(&s.urls, "source", nil, "documents that the server reads: URLs (https, s3, gs, azblob, file) or patterns, with commas between")
	f.StringVar(&s.query, "source-query", "", "rows that the server reads: a JSON object with connection, sql, id and for documents document, or @FILE with one")
}

// source is what the flags say, as the API takes it; nil for nothing.
func (s *sourceFlags) source() (json.RawMessage, error) {
	out := struct {
		URLs  []string        `json:"urls,omitempty"`
		Query json.RawMessage `json:"query,omitempty"`
	}{URLs: s.urls}
	switch {
	case len(s.urls) > 0 && s.query != "":
		return nil, usagef("--source and --source-query are two sources: give one")
	case len(s.urls) > 0:
	case s.query != "":
		var err error
		if out.Query, err = readJSON("--source-query", s.query); err != nil {
			return nil, err
		}
	default:
		return nil, nil
	}
	return json.Marshal(out)
}

// readJSON reads what a flag says: JSON, or the name of a file of it behind an @.
func readJSON(flag, text string) (json.RawMessage, error) {
	raw := json.RawMessage(text)
	if path, named := strings.CutPrefix(text, "@"); named {
		var err error
		if raw, err = os.ReadFile(path); err != nil {
			return nil, err
		}
	}
	if !json.Valid(raw) {
		return nil, usagef("%s is not JSON", flag)
	}
	return raw, nil
}
