package main

import (
	"context"
	"flag"
	"os"

	"github.com/beam-cloud/clip/pkg/clip"
	"github.com/beam-cloud/clip/pkg/common"
)

// index writes a v2 archive with upstream's indexer and its defaults, as beta9 does.
func index(args []string) error {
	flags := flag.NewFlagSet("index", flag.ContinueOnError)
	as := flags.String("as", "", "reference to write into the archive; REFERENCE itself when empty")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := positional(flags.Args(), "REFERENCE", "OUT"); err != nil {
		return err
	}
	return clip.CreateFromOCIImage(context.Background(), clip.CreateFromOCIImageOptions{
		ImageRef:        flags.Arg(0),
		StorageImageRef: *as,
		OutputPath:      flags.Arg(1),
	})
}

// create writes a v1 archive that carries its data.
func create(args []string) error {
	if err := positional(args, "DIR", "OUT"); err != nil {
		return err
	}
	return clip.CreateArchive(clip.CreateOptions{InputPath: args[0], OutputPath: args[1]})
}

// createRemote writes the small archive that stands for a v1 archive in S3. Upstream's own command
// uploads the data in the same breath; its archiver can do the first half alone.
func createRemote(args []string) error {
	flags := flag.NewFlagSet("create-remote", flag.ContinueOnError)
	info := &common.S3StorageInfo{}
	flags.StringVar(&info.Bucket, "bucket", "images", "bucket")
	flags.StringVar(&info.Region, "region", "", "region")
	flags.StringVar(&info.Key, "key", "image.clip", "key of the data object")
	flags.StringVar(&info.Endpoint, "endpoint", "", "base address; empty for AWS")
	flags.BoolVar(&info.ForcePathStyle, "path-style", false, "path-style addresses")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := positional(flags.Args(), "DIR", "OUT"); err != nil {
		return err
	}

	local, err := os.CreateTemp("", "interop-*.clip")
	if err != nil {
		return err
	}
	defer os.Remove(local.Name())
	local.Close()
	if err := create([]string{flags.Arg(0), local.Name()}); err != nil {
		return err
	}
	archiver := clip.NewClipArchiver()
	metadata, err := archiver.ExtractMetadata(local.Name())
	if err != nil {
		return err
	}
	return archiver.CreateRemoteArchive(info, metadata, flags.Arg(1))
}
