package command

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

// style are the flags for the most used params of summaries.
type style struct {
	of *cobra.Command
}

var styleFlags = []struct{ name, usage string }{
	{"length", "of summaries: short, medium or long"},
	{"audience", "who reads the summaries"},
	{"language", "of the summaries; the documents' by default"},
	{"focus", "what the reader of the summaries wants to know"},
	{"strategy", "of summaries: auto, single, map_reduce or refine"},
}

func newStyle(c *cobra.Command) style {
	f := c.Flags()
	for _, s := range styleFlags {
		f.String(s.name, "", s.usage)
	}
	f.Bool("bullets", false, "summaries are lists")
	f.Bool("outline", false, "make an outline of each document as well; see batchwright outline")
	return style{c}
}

// addTo puts the flags that were given into params, a JSON object or nothing.
func (s style) addTo(params json.RawMessage) (json.RawMessage, error) {
	flags, given := s.of.Flags(), map[string]any{}
	for _, f := range styleFlags {
		if v, err := flags.GetString(f.name); err == nil && flags.Changed(f.name) {
			given[f.name] = v
		}
	}
	for _, name := range []string{"bullets", "outline"} {
		if v, err := flags.GetBool(name); err == nil && flags.Changed(name) {
			given[name] = v
		}
	}
	if len(given) == 0 {
		return params, nil
	}
	all := map[string]json.RawMessage{}
	if len(params) > 0 && json.Unmarshal(params, &all) != nil {
		return nil, usagef("--params is not a JSON object")
	}
	for name, v := range given {
		if _, twice := all[name]; twice {
			return nil, usagef("--%s is in --params as well", name)
		}
		all[name], _ = json.Marshal(v) // a string or a bool
	}
	return json.Marshal(all)
}

func (a *app) outline() *cobra.Command {
	return &cobra.Command{
		Use: "outline JOB", Short: "Print the outline of a job's document: where each section is, its heading and what it says", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			lines, err := api.Outline(ctx, args[0])
			if err != nil {
				return err
			}
			for _, l := range lines {
				title := clean(l.Heading)
				if l.Part > 1 {
					title = strings.TrimSpace(fmt.Sprintf("%s (%d)", title, l.Part))
				}
				if title != "" {
					title += ": "
				}
				fmt.Fprintf(a.stdout, "%d-%d\t%s%s%s\n", l.Start, l.End, strings.Repeat("  ", max(l.Level-1, 0)), title, clean(l.Line))
			}
			if len(lines) == 0 {
				fmt.Fprintln(a.stderr, "The job has no outline. Submit its document with --outline.")
			}
			return nil
		}),
	}
}

func (a *app) text() *cobra.Command {
	var start, end int64
	c := &cobra.Command{
		Use: "text JOB", Short: "Print the text of a job's document, as it was extracted for the summary", Args: cobra.ExactArgs(1),
		Example: "  batchwright text 0199...-1 --start 1200 --end 1850",
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			return output("", a.stdout, func(w io.Writer) error { return api.JobText(ctx, args[0], start, end, w) })
		}),
	}
	c.Flags().Int64Var(&start, "start", 0, "begin at this character, such as an outline names")
	c.Flags().Int64Var(&end, "end", -1, "end before this one; by default at the end of the text")
	return c
}
