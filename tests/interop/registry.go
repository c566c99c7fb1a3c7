package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"

	"github.com/google/go-containerregistry/pkg/registry"
)

// serveRegistry serves a registry that lists referrers, which Debian's doesn't, in memory, on a port of
// the kernel's choice. It prints the address and ends with its input.
func serveRegistry(args []string) error {
	if err := positional(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	silent := registry.Logger(log.New(io.Discard, "", 0))
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	return http.Serve(listener, registry.New(silent, registry.WithReferrersSupport(true)))
}
