package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/beam-cloud/clip/pkg/clip"
	"github.com/beam-cloud/clip/pkg/storage"
)

// mount serves an archive through upstream's FUSE code with the options of a beta9 worker: no
// content cache, checkpoints on. It returns once the file system is unmounted, by us or by others.
func mount(args []string) error {
	flags := flag.NewFlagSet("mount", flag.ContinueOnError)
	cache := flags.String("cache", "", "directory (S3: file) for content; upstream's own default when empty")
	stdin := flags.Bool("until-eof", false, "unmount at the end of standard input: no mount outlives the test that made it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := positional(flags.Args(), "ARCHIVE", "MOUNTPOINT"); err != nil {
		return err
	}

	// Installed first, so that no signal finds a mount and nobody to take it down.
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)

	start, failed, server, err := clip.MountArchive(clip.MountOptions{
		ArchivePath:    flags.Arg(0),
		MountPoint:     flags.Arg(1),
		CachePath:      *cache,
		UseCheckpoints: true,
		Credentials: storage.ClipStorageCredentials{S3: &storage.S3ClipStorageCredentials{
			AccessKey: os.Getenv("AWS_ACCESS_KEY_ID"),
			SecretKey: os.Getenv("AWS_SECRET_ACCESS_KEY"),
		}},
	})
	if err != nil {
		return err
	}
	if err := start(); err != nil {
		return err
	}
	if err := server.WaitMount(); err != nil {
		return err
	}
	fmt.Println("ready")

	eof := make(chan struct{})
	if *stdin {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(eof)
		}()
	}
	for {
		select {
		case err := <-failed: // closed, so nil, when the file system is gone
			return err
		case <-stop:
		case <-eof:
			eof = nil
		}
		// Busy (a shell stands in it, say): stay, and say so; the next signal tries again.
		if err := server.Unmount(); err != nil {
			fmt.Fprintln(os.Stderr, "interop: unmount:", err)
		}
	}
}
