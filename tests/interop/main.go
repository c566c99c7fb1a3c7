// Command interop reads, writes and mounts CLIP archives with beam-cloud's own Go library, and
// compares directory trees. The tests of Clipwright run it to see its archives through the eyes of
// the workers in the field; the benchmark runs it as the other side.
//
// It holds no knowledge of the format of its own: whatever it says of an archive, upstream said.
package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/beam-cloud/clip/pkg/clip"
)

// command is one subcommand: what it takes after its name, and what it does with that.
type command struct {
	name, usage string
	run         func(args []string) error
}

var commands = []command{
	{"index", "[flags] REFERENCE OUT          a v2 archive of an image, by upstream's indexer", index},
	{"create", "DIR OUT                        a v1 local archive (.clip) of a directory", create},
	{"create-remote", "[flags] DIR OUT                a v1 S3 archive (.rclip) of a directory; nothing is uploaded", createRemote},
	{"dump", "ARCHIVE                        storage info and nodes as JSON lines", dump},
	{"mount", "[flags] ARCHIVE MOUNTPOINT     mounts; prints \"ready\"; stays until SIGTERM or unmounted", mount},
	{"tar-headers", "                               what archive/tar says of tars on standard input", tarHeaders},
	{"registry", "                                  a registry that lists referrers; prints its address", serveRegistry},
	{"compare", "[--allow FILE]... DIR_A DIR_B  prints how two trees differ", compare},
}

// errDifferent is what compare returns when the trees differ: the differences are printed already.
var errDifferent = errors.New("the trees differ")

func main() {
	level := os.Getenv("INTEROP_LOG")
	if level == "" {
		level = "error"
	}
	if err := clip.SetLogLevel(level); err != nil {
		fail(err)
	}
	if len(os.Args) > 1 {
		for _, c := range commands {
			if c.name == os.Args[1] {
				if err := c.run(os.Args[2:]); err != nil {
					fail(fmt.Errorf("%s: %w", c.name, err))
				}
				return
			}
		}
	}
	fmt.Fprintln(os.Stderr, "usage: interop COMMAND ...")
	for _, c := range commands {
		fmt.Fprintf(os.Stderr, "  %-14s %s\n", c.name, c.usage)
	}
	os.Exit(2)
}

// fail ends the program: 1 for trees that differ, 2 for everything that went wrong.
func fail(err error) {
	fmt.Fprintln(os.Stderr, "interop:", err)
	if errors.Is(err, errDifferent) {
		os.Exit(1)
	}
	os.Exit(2)
}

// positional checks the number of arguments that are left after the flags.
func positional(args []string, names ...string) error {
	if len(args) != len(names) {
		return fmt.Errorf("takes %d arguments %v, got %d", len(names), names, len(args))
	}
	return nil
}
