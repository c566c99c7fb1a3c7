package main

import (
	"bufio"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"unicode/utf8"

	"github.com/beam-cloud/clip/pkg/clip"
	"github.com/beam-cloud/clip/pkg/common"
	"github.com/tidwall/btree"
)

// The shapes below are what `clipwright inspect --json` and `clipwright ls --json` print too, as far
// as upstream has the field.

type storageLine struct {
	Type string `json:"type"` // local, s3 or oci

	Bucket         string `json:"bucket,omitempty"`
	Region         string `json:"region,omitempty"`
	Key            string `json:"key,omitempty"`
	Endpoint       string `json:"endpoint,omitempty"`
	ForcePathStyle bool   `json:"force_path_style,omitempty"`

	RegistryURL   string                `json:"registry_url,omitempty"`
	Repository    string                `json:"repository,omitempty"`
	Reference     string                `json:"reference,omitempty"`
	Layers        []string              `json:"layers,omitempty"`
	PlainDigests  map[string]string     `json:"plain_digests,omitempty"` // diff id by layer
	Checkpoints   map[string]int        `json:"checkpoints,omitempty"`   // how many, by layer
	ImageMetadata *common.ImageMetadata `json:"image_metadata,omitempty"`
}

type nodeLine struct {
	Path      string `json:"path"`
	PathHex   string `json:"path_hex,omitempty"` // the bytes, when they aren't UTF-8
	Type      string `json:"type"`               // dir, file or symlink
	Target    string `json:"target,omitempty"`
	Mode      uint32 `json:"mode"`
	UID       uint32 `json:"uid"`
	GID       uint32 `json:"gid"`
	Size      uint64 `json:"size"`
	Blocks    uint64 `json:"blocks"`
	Ino       uint64 `json:"ino"`
	Nlink     uint32 `json:"nlink"`
	Mtime     uint64 `json:"mtime"`
	MtimeNsec uint32 `json:"mtime_nsec"`

	// Where the bytes of a file are: a range of a layer (v2) or of the local archive (v1).
	Layer  string `json:"layer,omitempty"`
	Digest string `json:"digest,omitempty"`
	Offset *int64 `json:"offset,omitempty"`
	Length *int64 `json:"length,omitempty"`
}

// dump prints what upstream's reader makes of an archive: one line of storage info, then one line a
// node in the order of the index.
func dump(args []string) error {
	if err := positional(args, "ARCHIVE"); err != nil {
		return err
	}
	metadata, err := clip.NewClipArchiver().ExtractMetadata(args[0])
	if err != nil {
		return err
	}
	out := bufio.NewWriter(os.Stdout)
	lines := json.NewEncoder(out)
	lines.SetEscapeHTML(false)

	storage, err := describeStorage(metadata.StorageInfo)
	if err != nil {
		return err
	}
	if err := lines.Encode(storage); err != nil {
		return err
	}
	ascend(metadata.Index, func(node *common.ClipNode) {
		if err == nil {
			err = lines.Encode(describeNode(node))
		}
	})
	if err != nil {
		return err
	}
	return out.Flush()
}

func ascend(index *btree.BTree, visit func(*common.ClipNode)) {
	index.Ascend(index.Min(), func(item interface{}) bool {
		visit(item.(*common.ClipNode))
		return true
	})
}

func describeStorage(info common.ClipStorageInfo) (*storageLine, error) {
	switch info := info.(type) {
	case nil:
		return &storageLine{Type: "local"}, nil
	case common.S3StorageInfo:
		return &storageLine{
			Type: info.Type(), Bucket: info.Bucket, Region: info.Region, Key: info.Key,
			Endpoint: info.Endpoint, ForcePathStyle: info.ForcePathStyle,
		}, nil
	case common.OCIStorageInfo:
		diffIDs := map[string]string{}
		for layer, hash := range info.DecompressedHashByLayer {
			diffIDs[layer] = "sha256:" + hash
		}
		checkpoints := map[string]int{}
		for layer, index := range info.GzipIdxByLayer {
			checkpoints[layer] = len(index.Checkpoints)
		}
		return &storageLine{
			Type: info.Type(), RegistryURL: info.RegistryURL, Repository: info.Repository,
			Reference: info.Reference, Layers: info.Layers, PlainDigests: diffIDs,
			Checkpoints: checkpoints, ImageMetadata: info.ImageMetadata,
		}, nil
	default:
		return nil, fmt.Errorf("upstream returned storage info of type %T", info)
	}
}

func describeNode(node *common.ClipNode) *nodeLine {
	line := &nodeLine{
		Path: node.Path, Type: string(node.NodeType), Target: node.Target,
		Mode: node.Attr.Mode, UID: node.Attr.Uid, GID: node.Attr.Gid,
		Size: node.Attr.Size, Blocks: node.Attr.Blocks, Ino: node.Attr.Ino, Nlink: node.Attr.Nlink,
		Mtime: node.Attr.Mtime, MtimeNsec: node.Attr.Mtimensec,
	}
	if !utf8.ValidString(node.Path) {
		line.PathHex = hex.EncodeToString([]byte(node.Path))
	}
	if node.ContentHash != "" {
		line.Digest = "sha256:" + node.ContentHash
	}
	switch {
	case node.Remote != nil:
		line.Layer, line.Offset, line.Length = node.Remote.LayerDigest, &node.Remote.UOffset, &node.Remote.ULength
	case node.NodeType == common.FileNode:
		line.Offset, line.Length = &node.DataPos, &node.DataLen
	}
	return line
}
