package command

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

func (a *app) watch() *cobra.Command {
	return &cobra.Command{
		Use: "watch BATCH", Short: "Show a batch's progress until its end", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			b, err := api.Batch(ctx, args[0])
			if err != nil {
				return err
			}
			return a.await(ctx, a.stdout, api, b)
		}),
	}
}

// await follows one batch to its end and says how it ended.
func (a *app) await(ctx context.Context, w io.Writer, api *client.Client, b client.Batch) error {
	ended, err := a.follow(ctx, w, api, []string{cmp.Or(clean(b.Name), b.Kind)}, []client.Batch{b})
	if err != nil {
		return err
	}
	fmt.Fprintln(w, summary(ended[0]))
	return verdict(ended[0])
}

func (a *app) results() *cobra.Command {
	var to, status string
	c := &cobra.Command{
		Use: "results BATCH", Short: "Print the results that a batch has so far, one JSON object a line", Args: cobra.ExactArgs(1),
		RunE: a.talk(func(ctx context.Context, api *client.Client, args []string) error {
			b, err := api.Batch(ctx, args[0])
			if err != nil {
				return err
			}
			n := int64(0)
			err = output(to, a.stdout, func(w io.Writer) error {
				for r, err := range api.Results(ctx, b.ID, client.ResultOptions{Status: status}) {
					if err != nil {
						return err
					}
					if _, err := w.Write(append(r.Raw, '\n')); err != nil {
						return err
					}
					n++
				}
				return nil
			})
			if err != nil {
				return err
			}
			if to != "" {
				fmt.Fprintf(a.stderr, "%s written to %s\n", plural(n, "result", "results"), to)
			}
			if !b.Final() {
				fmt.Fprintf(a.stderr, "The batch was still %s: %s of %s done.\n", b.State, number(b.Done()), plural(b.TotalJobs, "job", "jobs"))
			}
			return nil
		}),
	}
	c.Flags().StringVarP(&to, "output", "o", "", "file to write to; it appears when it is complete")
	c.Flags().StringVar(&status, "status", "", "only results that are succeeded, failed or cancelled")
	return c
}

// output gives write a buffered writer to the file at path, or to other without one. A regular file gets its name only
// when all has been written, so that half a result never looks like a whole one.
func output(path string, other io.Writer, write func(io.Writer) error) error {
	if path == "" || path == "-" {
		b := bufio.NewWriter(other)
		return errors.Join(write(b), b.Flush())
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() { // a pipe, a device
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		b := bufio.NewWriter(f)
		return errors.Join(write(b), b.Flush(), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	b := bufio.NewWriter(f)
	err = errors.Join(write(b), b.Flush(), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
