// Package command is the batchwright command line.
//
// What a command is asked for goes to standard output: ids, keys, results, the demo's story. Notices, logs, errors, and
// the progress of `submit --wait` go to standard error.
//
// # Exit codes
//
//	0    done
//	1    something failed: no connection, a fault of the server, a file that can't be read
//	2    the command line or the environment is wrong
//	3    the server refused the request; its line errors are listed
//	4    the batch ended with jobs that failed or were cancelled (submit --wait, watch)
//	130  interrupted
//
// `services` returns the exit code of the command that it ran. `dev`, `api` and `worker` end with 0 when a signal tells
// them to stop.
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/spf13/cobra"

	"batchwright/internal/client"
)

const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitRefused     = 3
	exitIncomplete  = 4
	exitInterrupted = 130
)

// app is one run of the program.
type app struct {
	getenv func(string) string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer // of the main goroutine, and for what needs to know whether it is a terminal
	log    io.Writer // stderr for goroutines

	started bool   // the command line was right
	url     string // of the API, once a command has asked for it
}

// Main runs the program with the arguments behind its name and returns its exit code.
func Main(ctx context.Context, args []string, getenv func(string) string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{getenv: getenv, stdin: stdin, stdout: stdout, stderr: stderr, log: &shared{w: stderr}}
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // never nil, which means os.Args
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	return a.explain(ctx, cmd, err)
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "batchwright",
		Short: "Run batches of LLM work, and pay only for what changed",
		Long: `Batchwright runs batches of LLM work: every answer, token, dollar and cache hit lands in
Postgres, and the next run pays only for what changed.

Commands that talk to a server read BATCHWRIGHT_URL (default ` + defaultURL + `)
and BATCHWRIGHT_API_KEY.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 refused by the server, 4 the batch ended with
failed or cancelled jobs, 130 interrupted.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: true},
	}
	const start, use, run = "start", "use", "run"
	root.AddGroup(
		&cobra.Group{ID: start, Title: "Try it:"},
		&cobra.Group{ID: use, Title: "Use a server:"},
		&cobra.Group{ID: run, Title: "Run a server:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add(start, a.demo(), a.dev())
	add(use, a.submit(), a.forecast(), a.extract(), a.watch(), a.results(), a.outline(), a.text(), a.pause(), a.resume(), a.cancel(), a.retry(), a.rerun(), a.diff(), a.report(), a.export(), a.exports(), a.template(), a.route(), a.webhook(), a.budget(), a.schedule(), a.prices(), a.savings())
	add(run, a.api(), a.worker(), a.migrate(), a.key(), a.project(), a.services(), a.healthcheck())
	root.AddCommand(a.version())
	return root
}

// run makes f a command's body. An error that comes before it is one of usage.
func (a *app) run(f func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.started = true
		return f(cmd.Context(), args)
	}
}

// group is a command that only holds others. Cobra would answer an unknown one with help and exit code 0.
func (a *app) group(use, short string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usagef("unknown command %q for %q", args[0], cmd.CommandPath())
		}
		return cmd.Help()
	}}
	c.AddCommand(commands...)
	return c
}

// usageError says that the command line or the environment is wrong.
type usageError struct{ message string }

func (e usageError) Error() string { return e.message }

func usagef(format string, args ...any) error { return usageError{fmt.Sprintf(format, args...)} }

// incomplete says that a batch ended, but not as it should.
type incomplete struct{ message string }

func (e incomplete) Error() string { return e.message }

// childExit is the exit code of a command that we ran, and why it couldn't run; without a reason it has spoken itself.
type childExit struct {
	code int
	err  error
}

func (e childExit) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

// explain tells what went wrong, in one line, and picks the exit code.
func (a *app) explain(ctx context.Context, cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	say := func(format string, args ...any) {
		fmt.Fprintf(a.stderr, "batchwright: "+format+"\n", args...)
	}
	if child, ok := errors.AsType[childExit](err); ok {
		if child.err != nil {
			say("%s", oneLine(child.err))
		}
		return child.code
	}
	_, wrong := errors.AsType[usageError](err)
	problem, refused := errors.AsType[*client.Problem](err)
	_, ended := errors.AsType[incomplete](err)
	switch {
	case wrong || !a.started:
		say("%s (see %s --help)", oneLine(err), cmd.CommandPath())
		return exitUsage
	case refused:
		return a.explainProblem(problem, say)
	case ended:
		say("%s", oneLine(err))
		return exitIncomplete
	case ctx.Err() != nil:
		say("interrupted")
		return exitInterrupted
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" && a.url != "" {
		why := op.Err
		if call, ok := errors.AsType[*os.SyscallError](why); ok {
			why = call.Err
		}
		say("can't reach %s: %v; is the server up? (set BATCHWRIGHT_URL, or start one with batchwright dev)", a.url, why)
		return exitFailed
	}
	say("%s", oneLine(err))
	return exitFailed
}

func (a *app) explainProblem(p *client.Problem, say func(string, ...any)) int {
	switch {
	case p.Status == http.StatusUnauthorized:
		say("%s; check BATCHWRIGHT_API_KEY (HTTP 401)", oneLine(errors.New(p.Detail)))
	case p.Status >= 500 && p.Instance != "":
		say("%s; %s", oneLine(p), p.Instance)
	default:
		say("%s", oneLine(p))
	}
	if len(p.Errors) > 1 || len(p.Errors) == 1 && p.Errors[0].Line > 0 { // else the detail says it
		for _, f := range p.Errors {
			fmt.Fprintf(a.stderr, "  %s\n", fault(f))
		}
		if more := p.ErrorCount - len(p.Errors); more > 0 {
			fmt.Fprintf(a.stderr, "  and %s more\n", number(int64(more)))
		}
	}
	if p.Status >= 500 {
		return exitFailed
	}
	return exitRefused
}

// fault is "line 3 (sku-3), variables: name is missing".
func fault(f client.Fault) string {
	var where []string
	if f.Line > 0 {
		line := fmt.Sprintf("line %d", f.Line)
		if f.CustomID != "" {
			line += " (" + f.CustomID + ")"
		}
		where = append(where, line)
	}
	if f.Field != "" {
		where = append(where, f.Field)
	}
	if where == nil {
		return clean(f.Message)
	}
	return clean(strings.Join(where, ", ") + ": " + f.Message)
}

// oneLine words an error for people: errors that were joined become one sentence.
func oneLine(err error) string {
	text := strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	return clean(strings.TrimPrefix(text, "client: "))
}

// shared is a writer for several goroutines.
type shared struct {
	mu sync.Mutex
	w  io.Writer
}

// Write implements io.Writer.
func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

// notify prints a notice.
func (a *app) notify(line string) { fmt.Fprintln(a.log, line) }

const defaultURL = "http://127.0.0.1:8080"

// client returns a client of the server that the environment names.
func (a *app) client() (*client.Client, error) {
	url, key := a.getenv("BATCHWRIGHT_URL"), a.getenv("BATCHWRIGHT_API_KEY")
	if url == "" {
		url = defaultURL
	}
	if key == "" {
		return nil, usagef("BATCHWRIGHT_API_KEY is not set: batchwright dev prints a key, batchwright key create makes one")
	}
	c, err := client.New(url, key)
	if err != nil {
		return nil, usagef("BATCHWRIGHT_URL: %s", oneLine(err))
	}
	a.url = url
	return c, nil
}

// talk makes a command's body of f, which talks to the server.
func (a *app) talk(f func(ctx context.Context, c *client.Client, args []string) error) func(*cobra.Command, []string) error {
	return a.run(func(ctx context.Context, args []string) error {
		c, err := a.client()
		if err != nil {
			return err
		}
		defer c.Close()
		return f(ctx, c, args)
	})
}
