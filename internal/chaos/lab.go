package chaos

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"batchwright/internal/embedded"
	"batchwright/internal/process"
	"batchwright/internal/programs"
)

// lab is what all runs share: the built programs, the servers' binaries and a migrated database to copy.
type lab struct {
	rig      *embedded.Rig
	bin      string // folder of the programs, built with the tag chaos
	template string // folder of a stopped, migrated Postgres
	logs     string // folder of the runs that failed
	ends     []func() error
}

// openLab builds what the runs need. Nothing is left when it fails.
func openLab(ctx context.Context, say func(string)) (_ *lab, err error) {
	l := &lab{}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	root, err := programs.Root(ctx)
	if err != nil {
		return nil, err
	}
	l.logs = filepath.Join(root, ".run", "chaos")
	if err = os.MkdirAll(l.logs, 0o755); err != nil {
		return nil, err
	}
	l.ends = append(l.ends, func() error { _ = os.Remove(l.logs); return nil }) // if no failed run left something
	if l.bin, err = programs.Build(ctx, "chaos", "api", "worker", "gateway"); err != nil {
		return nil, err
	}
	if l.rig, err = embedded.NewRig(ctx, embedded.Options{Dir: filepath.Join(root, ".run"), Notify: say}); err != nil {
		return nil, err
	}
	return l, l.migrate(ctx)
}

// migrate makes the database that runs are copied from.
func (l *lab) migrate(ctx context.Context) error {
	dir, remove, err := l.rig.Folder(ctx)
	if err != nil {
		return err
	}
	l.ends = append(l.ends, remove)
	ports, err := takePorts()
	if err != nil {
		return err
	}
	defer ports.close()
	l.template = filepath.Join(dir, "template")
	pg, err := l.rig.Postgres(l.template, ports.take(), "")
	if err != nil {
		return err
	}
	if err := pg.Start(ctx); err != nil {
		return err
	}
	_, err = process.Migrate(ctx, func(string) string { return pg.URL })
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	return errors.Join(err, pg.Stop(stopping, syscall.SIGINT))
}

func (l *lab) close() (err error) {
	for i := len(l.ends) - 1; i >= 0; i-- {
		err = errors.Join(err, l.ends[i]())
	}
	return err
}
