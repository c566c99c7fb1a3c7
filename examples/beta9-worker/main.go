// How a worker of beta9 runs a container from Clipwright's mount in the place of its own: mount, run, unmount.
// runc stands behind chroot here; whatever runs containers finds the image's files at the mount point.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	var o Options
	flag.StringVar(&o.Program, "clipwright", "clipwright", "the clipwright binary")
	flag.StringVar(&o.Point, "mount", "", "where to mount")
	flag.StringVar(&o.Cache, "cache", "", "directory for what is fetched, for all mounts of the machine")
	flag.StringVar(&o.Service, "service", "", "address of the service")
	flag.StringVar(&o.ReadyWhen, "ready-when", "", "when the container is ready")
	flag.Parse()
	if flag.NArg() < 2 || o.Point == "" {
		fmt.Fprintln(os.Stderr, "usage: beta9-worker --mount DIR [flags] ARCHIVE PROGRAM [ARGUMENT...]")
		os.Exit(2)
	}
	o.Archive = flag.Arg(0)
	o.Credentials = os.Getenv("IMAGE_CREDENTIALS")
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	code, err := run(ctx, o, flag.Args()[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "beta9-worker:", err)
	}
	os.Exit(code)
}

// run mounts the archive, runs the program in it, and unmounts it in any case. Gives the program's exit code.
func run(ctx context.Context, o Options, program []string) (code int, err error) {
	begin := time.Now()
	if err := Mount(ctx, o); err != nil {
		return 1, err
	}
	defer func() {
		if failed := Unmount(o); failed != nil && err == nil {
			code, err = 1, failed
		}
	}()
	fmt.Fprintf(os.Stderr, "mounted after %v\n", time.Since(begin).Round(time.Millisecond))
	container := exec.CommandContext(ctx, "chroot", append([]string{o.Point}, program...)...)
	container.Stdin, container.Stdout, container.Stderr = os.Stdin, os.Stdout, os.Stderr
	var exit *exec.ExitError
	switch err := container.Run(); {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return exit.ExitCode(), nil
	default:
		return 1, err
	}
}
