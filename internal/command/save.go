package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) route() *cobra.Command {
	var accept string
	c := &cobra.Command{
		Use: "save NAME CHAIN | FILE", Short: "Save a fallback chain as the next version of its name", Args: cobra.RangeArgs(1, 2),
		Long: `Save a fallback chain, PROVIDER:MODEL,PROVIDER:MODEL,... or a file with {"name": ..., "spec":
...}, as the next version of its name, and print it as NAME@VERSION. The same chain again is the
version that has it. FILE - is standard input.`,
		Example: `  batchwright route save nightly openai:gpt-4.1-mini,local/extractive
  batchwright route save route.json`,
	}
	c.Flags().StringVar(&accept, "accept", "", "which cached answers count: any (default), or primary, only the first step's")
	c.RunE = a.talk(func(ctx context.Context, api *client.Client, args []string) error {
		var d definition
		var err error
		switch {
		case len(args) == 2:
			d.Name = args[0]
			d.Spec, err = chain(args[1], accept)
		case accept != "":
			return usagef("--accept goes with NAME CHAIN; in a file it is a field of spec")
		default:
			d, err = a.definition(args[0])
		}
		if err != nil {
			return err
		}
		saved, err := api.SaveRoute(ctx, d.Name, d.Spec)
		return a.printRef(saved, err)
	})
	return a.group("route", "Save fallback chains of providers", c)
}

func (a *app) printRef(d client.Definition, err error) error {
	if err == nil {
		fmt.Fprintln(a.stdout, d.Ref)
	}
	return err
}

// definition is a file with a template or a route.
type definition struct {
	Name string          `json:"name"`
	Spec json.RawMessage `json:"spec"`
}

func (a *app) definition(path string) (d definition, err error) {
	const most = 4 << 20
	var data []byte
	if path == "-" {
		data, err = io.ReadAll(io.LimitReader(a.stdin, most))
	} else {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		return d, err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return d, fmt.Errorf(`%s: want {"name": ..., "spec": ...}: %w`, path, err)
	}
	if d.Name == "" || len(d.Spec) == 0 {
		return d, fmt.Errorf(`%s: name and spec must both be there`, path)
	}
	return d, nil
}

// chain turns "openai:gpt-4.1-mini,local/extractive" into a route's spec.
func chain(text, accept string) (json.RawMessage, error) {
	type step struct {
		Provider string `json:"provider"`
		Model    string `json:"model"`
	}
	var spec struct {
		Steps  []step `json:"steps"`
		Accept string `json:"accept,omitempty"`
	}
	spec.Accept = accept
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		i := strings.IndexAny(part, ":/")
		if i < 1 || i == len(part)-1 {
			return nil, usagef("%q is not a step: want PROVIDER:MODEL", part)
		}
		spec.Steps = append(spec.Steps, step{part[:i], part[i+1:]})
	}
	return json.Marshal(spec)
}
