// What the builder of beta9's gateway does, with Clipwright in the place of a build container.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	clipwright "clipwright/clients/go"
)

func main() {
	server := flag.String("server", env("CLIPWRIGHT_SERVER", "http://127.0.0.1:8080"), "address of the service")
	workspace := flag.String("workspace", os.Getenv("CLIPWRIGHT_WORKSPACE"), "the tenant to act for")
	container := flag.String("container-id", "", "beta9's name of the build: build- and some digits")
	python := flag.String("python-version", "", "what every message says of it")
	dockerfile := flag.String("dockerfile", "", "a file with the text of a Dockerfile, to be built")
	flag.Parse()
	if flag.NArg() > 1 || flag.NArg() == 0 && *dockerfile == "" {
		fmt.Fprintln(os.Stderr, "usage: beta9-gateway [flags] IMAGE")
		os.Exit(2)
	}
	// The user's end of the line: when it is gone, so is the build.
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	request := buildRequest{image: flag.Arg(0), containerID: *container, pythonVersion: *python}
	if *dockerfile != "" {
		text, err := os.ReadFile(*dockerfile)
		if err != nil {
			fail(err)
		}
		request.dockerfile = string(text)
	}
	client, err := clipwright.NewClientWithResponses(*server, clipwright.WithRequestEditorFn(
		func(_ context.Context, request *http.Request) error {
			if *workspace != "" {
				request.Header.Set("Clipwright-Workspace", *workspace)
			}
			if token := os.Getenv("CLIPWRIGHT_TOKEN"); token != "" {
				request.Header.Set("Authorization", "Bearer "+token)
			}
			return nil
		}))
	if err != nil {
		fail(err)
	}
	builder := builder{client: client, out: os.Stdout}
	if err := builder.build(ctx, request); err != nil {
		fail(err)
	}
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "beta9-gateway:", err)
	os.Exit(1)
}

// buildRequest is what a user asks the gateway for.
type buildRequest struct {
	image, dockerfile, containerID, pythonVersion string
}

// builder does what beta9's own builder does. Text for the user goes to out.
type builder struct {
	client *clipwright.ClientWithResponses
	out    io.Writer
}

// build makes the image, unless it is there.
func (b *builder) build(ctx context.Context, request buildRequest) error {
	image, err := b.verify(ctx, request)
	if err != nil {
		return err
	}
	if image.Exists {
		fmt.Fprintln(b.out, "Image already exists")
		return nil
	}
	id, err := b.submit(ctx, request, image.ImageId)
	if err != nil {
		return err
	}
	last, err := b.follow(ctx, id, request.pythonVersion)
	if err != nil {
		// Whatever went wrong, nobody waits for the build any more.
		return errors.Join(err, b.stop(context.WithoutCancel(ctx), id))
	}
	fmt.Fprint(b.out, last.Msg)
	if !last.Success {
		code := int32(1)
		if last.ExitCode != nil {
			code = *last.ExitCode
		}
		return fmt.Errorf("the build of image %s ended with exit code %d", last.ImageId, code)
	}
	fmt.Fprintln(b.out, "image", last.ImageId)
	return nil
}
