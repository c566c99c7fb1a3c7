package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Options say how an archive is mounted. What is empty is left to clipwright.
type Options struct {
	// Program is the clipwright binary.
	Program string
	// Archive is a file, or s3://BUCKET/KEY.
	Archive string
	// Point is the directory to mount at; it is made.
	Point string
	// Cache is the directory that all mounts of the machine share.
	Cache string
	// Service is told how the start went, and asked what earlier ones touched. The token is in CLIPWRIGHT_TOKEN.
	Service string
	// ReadyWhen is when the container is ready, such as "port:10.0.0.7:8080".
	ReadyWhen string
	// Credentials for the registry, in any of beta9's encodings. They are handed over in the environment:
	// everybody can read the arguments of a process.
	Credentials string
}

// Mount starts a daemon that serves the archive, and returns when it can be read: then the registry has
// answered and taken the credentials.
func Mount(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Point, 0o755); err != nil {
		return err
	}
	args := []string{"mount", "--daemon", "--allow-other"}
	for flag, value := range map[string]string{
		"--cache-dir": o.Cache, "--service": o.Service, "--ready-when": o.ReadyWhen,
	} {
		if value != "" {
			args = append(args, flag, value)
		}
	}
	command := exec.CommandContext(ctx, o.Program, append(args, o.Archive, o.Point)...)
	command.Env = os.Environ()
	if o.Credentials != "" {
		command.Env = append(command.Env, "CLIPWRIGHT_CREDENTIALS="+o.Credentials)
	}
	var said bytes.Buffer
	command.Stderr = &said
	if err := command.Run(); err != nil {
		// One sentence, for the user.
		return fmt.Errorf("mount %s: %w: %s", filepath.Base(o.Archive), err, strings.TrimSpace(said.String()))
	}
	return nil
}

// Unmount takes the mount away, however its container ended. What still has files open may finish, and no other
// mount can be in its way.
func Unmount(o Options) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, o.Program, "unmount", "--lazy", o.Point).CombinedOutput()
	if err != nil {
		return fmt.Errorf("unmount %s: %w: %s", o.Point, err, strings.TrimSpace(string(out)))
	}
	return os.Remove(o.Point)
}
