package command

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"unicode"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) template() *cobra.Command {
	save := &cobra.Command{
		Use: "save FILE", Short: `Save a template, {"name": ..., "spec": ...}, as its next version`, Args: cobra.ExactArgs(1),
		Long: `Save a template, {"name": ..., "spec": ...}, as the next version of its name, and print it as
NAME@VERSION. The same spec again is the version that has it. What it could do better comes on
standard error. FILE - is standard input.`,
		Example: "  batchwright template save examples/templates/product-blurb.json",
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			d, err := a.definition(args[0])
			if err != nil {
				return err
			}
			saved, err := api.SaveTemplate(ctx, d.Name, d.Spec)
			writeFindings(a.stderr, saved.Findings)
			return a.printRef(saved, err)
		}),
	}
	return a.group("template", "Save, check and preview prompt templates", save, a.lint(), a.preview())
}

func (a *app) lint() *cobra.Command {
	var route string
	c := &cobra.Command{
		Use: "lint FILE", Short: "Say what spoils a template's caches or answers, without saving it", Args: cobra.ExactArgs(1),
		Long: `Say what spoils a template's caches or answers, without saving it. The server checks it, and with a
route, against what the models of the route need. The exit code is 4 when there is a warning; notes
may be meant. FILE - is standard input.`,
		Example: "  batchwright template lint examples/templates/ticket-triage.json --route anthropic:claude-sonnet-4-5",
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			d, err := a.definition(args[0])
			if err != nil {
				return err
			}
			p, err := api.PreviewTemplate(ctx, d.Name, client.PreviewOptions{Spec: d.Spec, Route: client.RouteOf(route)})
			if err != nil {
				return err
			}
			writeFindings(a.stdout, p.Findings)
			warnings := int64(0)
			for _, f := range p.Findings {
				if f.Severity == "warning" {
					warnings++
				}
			}
			if warnings > 0 {
				return incomplete{fmt.Sprintf("%s: %s", clean(d.Name), plural(warnings, "warning", "warnings"))}
			}
			return nil
		}),
	}
	c.Flags().StringVar(&route, "route", "", "who will be asked: a stored route, a chain, or JSON")
	return c
}

func (a *app) preview() *cobra.Command {
	var route, inputs string
	var most int
	var asJSON bool
	c := &cobra.Command{
		Use: "preview NAME[@VERSION] | FILE", Short: "Show what a template makes of inputs, and what an edit would discard", Args: cobra.ExactArgs(1),
		Long: `Show what a template makes of inputs, how many tokens they take, and where the part that all
requests share ends. A FILE with a template that isn't saved is shown as its next version, with the
cached answers that saving it would discard and what they had cost. With a route, the answers that
the cache has are told. Nothing is stored, and no call is made.`,
		Example: `  batchwright template preview product-blurb --inputs examples/products.ndjson --route openai:gpt-4.1-mini
  batchwright template preview edited.json`,
	}
	f := c.Flags()
	f.StringVar(&inputs, "inputs", "", "jobs as NDJSON; - for standard input")
	f.IntVarP(&most, "number", "n", 3, "how many of them to show, up to 100")
	f.StringVar(&route, "route", "", "who would be asked: a stored route, a chain, or JSON")
	f.BoolVar(&asJSON, "json", false, "print the server's answer")
	c.RunE = a.talk(func(ctx context.Context, api *client.Client, args []string) error {
		if most < 0 || most > 100 {
			return usagef("--number is between 0 and 100")
		}
		o := client.PreviewOptions{Route: client.RouteOf(route)}
		name, version, err := a.previewed(args[0], &o)
		if err != nil {
			return err
		}
		o.Version = version
		if inputs != "" {
			if o.Inputs, err = a.inputs(inputs, most); err != nil {
				return err
			}
		}
		p, err := api.PreviewTemplate(ctx, name, o)
		if err != nil {
			return err
		}
		if asJSON {
			_, err := fmt.Fprintf(a.stdout, "%s\n", p.Raw)
			return err
		}
		return output("", a.stdout, func(w io.Writer) error {
			writePreview(w, p, name)
			return nil
		})
	})
	return c
}

// previewed tells a stored template from a file with one.
func (a *app) previewed(arg string, o *client.PreviewOptions) (name string, version int32, err error) {
	if _, serr := os.Stat(arg); arg == "-" || serr == nil || strings.HasSuffix(arg, ".json") {
		d, err := a.definition(arg)
		o.Spec = d.Spec
		return d.Name, 0, err
	}
	name, digits, versioned := strings.Cut(arg, "@")
	if !versioned {
		return name, 0, nil
	}
	n, err := strconv.ParseInt(digits, 10, 32)
	if err != nil || n < 1 {
		return "", 0, usagef("%q is no template: want NAME, NAME@VERSION or a file", arg)
	}
	return name, int32(n), nil
}

// inputs reads the variables of the first jobs of an NDJSON file.
func (a *app) inputs(path string, most int) (out []json.RawMessage, err error) {
	in := a.stdin
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		in = file
	}
	const longest = 32 << 20 // as the server has it
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, longest)
	for n := 1; len(out) < most && lines.Scan(); n++ {
		if strings.TrimSpace(lines.Text()) == "" {
			continue
		}
		var job struct {
			Variables json.RawMessage `json:"variables"`
		}
		if err := json.Unmarshal(lines.Bytes(), &job); err != nil {
			return nil, fmt.Errorf("%s: line %d is not a job as JSON: %w", path, n, err)
		}
		if len(job.Variables) == 0 {
			job.Variables = json.RawMessage("{}")
		}
		out = append(out, job.Variables)
	}
	return out, lines.Err()
}

func writeFindings(w io.Writer, findings []client.Finding) {
	for _, f := range findings {
		place := clean(f.Field)
		if f.Line > 0 {
			place += fmt.Sprintf(", line %d", f.Line)
		}
		if place != "" {
			place += ": "
		}
		fmt.Fprintf(w, "%s: %s%s (%s)\n", clean(f.Severity), place, clean(f.Message), clean(f.Code))
	}
}

func writePreview(w io.Writer, p client.Preview, name string) {
	fmt.Fprintf(w, "%s: requests share %s", clean(deref(p.Ref, name+", not saved")), plural(int64(p.Stable.Messages), "message", "messages"))
	if p.Stable.Bytes > 0 {
		fmt.Fprintf(w, " and %s of the next", plural(int64(p.Stable.Bytes), "byte", "bytes"))
	}
	fmt.Fprintf(w, ", about %s\n", plural(int64(p.Stable.Tokens), "token", "tokens"))
	if d := p.Discards; d != nil {
		fmt.Fprintf(w, "Saving it discards %s, which had cost %s", plural(d.Results, "cached answer", "cached answers"), dollars(&d.CostMicroUSD))
		if d.ResultsWithoutCost > 0 {
			fmt.Fprintf(w, ", without %s of unknown cost", number(d.ResultsWithoutCost))
		}
		fmt.Fprintln(w)
	}
	writeFindings(w, p.Findings)
	for i, in := range p.Inputs {
		fmt.Fprintf(w, "\nInput %d", i+1)
		if in.Error != nil {
			fmt.Fprintf(w, ": %s\n", clean(*in.Error))
			continue
		}
		fmt.Fprintf(w, ", about %s", plural(int64(in.Tokens), "token", "tokens"))
		switch {
		case in.Cached != nil:
			fmt.Fprintf(w, ", answered by the cache (%s)", clean(*in.Cached))
		case len(in.Keys) > 0:
			fmt.Fprint(w, ", not in the cache")
		}
		fmt.Fprintln(w)
		for j, m := range in.Messages {
			fmt.Fprintf(w, "  %s\n", clean(m.Role))
			text := m.Content
			if at := p.Stable.Bytes; j == p.Stable.Messages && at > 0 && at <= len(text) {
				text = text[:at] + "⟨what varies begins here⟩" + text[at:]
			} else if j == p.Stable.Messages {
				text = "⟨what varies begins here⟩" + text
			}
			for line := range strings.Lines(text) {
				fmt.Fprintf(w, "    %s\n", printable(line))
			}
		}
	}
}

// printable is a line without what a terminal obeys; unlike clean, it keeps blanks.
func printable(line string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case unicode.IsControl(r), r == '\u2028', r == '\u2029', unicode.Is(unicode.Cf, r) && r != '\u200d':
			return -1
		}
		return r
	}, line)
}
