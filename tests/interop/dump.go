package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"time"
	"unicode/utf8"

	"github.com/beam-cloud/clip/pkg/clip"
	"github.com/beam-cloud/clip/pkg/common"
	"github.com/tidwall/btree"
)

// dump prints what upstream's reader makes of an archive: one line of storage info, then one line a
// node in the order of the index. The shapes are those of `clipwright inspect --json` (its storage)
// and `clipwright ls --json`, as far as upstream has the fields.
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

type fields map[string]any // encoded with sorted keys

func describeStorage(info common.ClipStorageInfo) (fields, error) {
	switch info := info.(type) {
	case nil:
		return fields{"type": "local"}, nil
	case common.S3StorageInfo:
		return fields{
			"type": info.Type(), "bucket": info.Bucket, "region": info.Region, "key": info.Key,
			"endpoint": info.Endpoint, "force_path_style": info.ForcePathStyle,
		}, nil
	case common.OCIStorageInfo:
		described := fields{
			"type": info.Type(), "registry": info.RegistryURL, "repository": info.Repository,
			"reference": info.Reference, "layers": describeLayers(info),
		}
		if info.ImageMetadata != nil {
			described["image"] = describeImage(info.ImageMetadata)
		}
		return described, nil
	default:
		return nil, fmt.Errorf("upstream returned storage info of type %T", info)
	}
}

func describeLayers(info common.OCIStorageInfo) []fields {
	var layers []fields
	for _, digest := range info.Layers {
		layer := fields{"digest": digest, "diff_id": "sha256:" + info.DecompressedHashByLayer[digest]}
		if index := info.GzipIdxByLayer[digest]; index != nil {
			layer["checkpoints"] = len(index.Checkpoints)
		}
		if info.ImageMetadata != nil {
			for _, data := range info.ImageMetadata.LayersData {
				if data.Digest == digest {
					layer["compressed_bytes"], layer["media_type"] = data.Size, data.MIMEType
				}
			}
		}
		layers = append(layers, layer)
	}
	return layers
}

func describeImage(image *common.ImageMetadata) fields {
	return fields{
		"name": image.Name, "manifest_digest": image.Digest, "created": timeText(image.Created),
		"os": image.Os, "architecture": image.Architecture, "variant": image.Variant,
		"env": image.Env, "entrypoint": image.Entrypoint, "cmd": image.Cmd, "user": image.User,
		"working_dir": image.WorkingDir, "labels": image.Labels, "stop_signal": image.StopSignal,
		"exposed_ports": sortedKeys(image.ExposedPorts), "volumes": sortedKeys(image.Volumes),
	}
}

// timeText is RFC 3339 with a numeric zone and 0, 3, 6 or 9 digits after the point; "" for no time.
func timeText(at time.Time) string {
	layout := "2006-01-02T15:04:05.000000000-07:00"
	switch ns := at.Nanosecond(); {
	case at.IsZero():
		return ""
	case ns == 0:
		layout = "2006-01-02T15:04:05-07:00"
	case ns%1_000_000 == 0:
		layout = "2006-01-02T15:04:05.000-07:00"
	case ns%1_000 == 0:
		layout = "2006-01-02T15:04:05.000000-07:00"
	}
	return at.Format(layout)
}

func sortedKeys(set map[string]struct{}) []string {
	keys := make([]string, 0, len(set))
	for key := range set {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}

func describeNode(node *common.ClipNode) fields {
	line := fields{
		"type": node.NodeType, "mode": fmt.Sprintf("%04o", node.Attr.Mode&0o7777),
		"uid": node.Attr.Uid, "gid": node.Attr.Gid, "size": node.Attr.Size,
		"ino": node.Attr.Ino, "nlink": node.Attr.Nlink,
		"mtime": node.Attr.Mtime, "mtime_nsec": node.Attr.Mtimensec,
	}
	line.text("path", node.Path)
	switch {
	case node.NodeType == common.SymLinkNode:
		line.text("target", node.Target)
	case node.Remote != nil:
		line["layer"], line["offset"], line["length"] = node.Remote.LayerDigest, node.Remote.UOffset, node.Remote.ULength
	case node.NodeType == common.FileNode:
		line["data_offset"], line["data_length"], line["sha256"] = node.DataPos, node.DataLen, node.ContentHash
	}
	return line
}

// text adds a name: readable, and in base64 too where it is no UTF-8.
func (line fields) text(key, value string) {
	line[key] = value
	if !utf8.ValidString(value) {
		line[key+"_base64"] = base64.StdEncoding.EncodeToString([]byte(value))
	}
}
