package main

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
)

// tarEntry is what Go's archive/tar says of one entry.
type tarEntry struct {
	Type   string
	Name   []byte
	Link   []byte
	Size   int64
	Mode   int64
	UID    int64
	GID    int64
	Mtime  [2]int64
	Atime  *[2]int64
	Ctime  *[2]int64
	Device [2]int64
	// Content of files, sparse ones made whole.
	Content []byte
	Xattrs  map[string][]byte
}

// tarCase is one tar taken apart, or why not.
type tarCase struct {
	Entries []tarEntry
	Error   string
}

// tarHeaders reads tars from standard input, each after its length (8 bytes, little endian), and
// prints what Go makes of each as a line of JSON.
func tarHeaders([]string) error {
	out := json.NewEncoder(os.Stdout)
	for {
		var length uint64
		err := binary.Read(os.Stdin, binary.LittleEndian, &length)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		data := make([]byte, length)
		if _, err := io.ReadFull(os.Stdin, data); err != nil {
			return err
		}
		if err := out.Encode(takeApart(data)); err != nil {
			return err
		}
	}
}

func takeApart(data []byte) (found tarCase) {
	reader := tar.NewReader(bytes.NewReader(data))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			found.Error = err.Error()
			return found
		}
		entry := tarEntry{
			Type: string(rune(header.Typeflag)), Name: []byte(header.Name), Link: []byte(header.Linkname),
			Size: header.Size, Mode: header.Mode, UID: int64(header.Uid), GID: int64(header.Gid),
			Mtime:  [2]int64{header.ModTime.Unix(), int64(header.ModTime.Nanosecond())},
			Device: [2]int64{header.Devmajor, header.Devminor},
		}
		if at := header.AccessTime; !at.IsZero() {
			entry.Atime = &[2]int64{at.Unix(), int64(at.Nanosecond())}
		}
		if at := header.ChangeTime; !at.IsZero() {
			entry.Ctime = &[2]int64{at.Unix(), int64(at.Nanosecond())}
		}
		for name, value := range header.PAXRecords {
			if name, isXattr := strings.CutPrefix(name, "SCHILY.xattr."); isXattr && value != "" {
				if entry.Xattrs == nil {
					entry.Xattrs = make(map[string][]byte)
				}
				entry.Xattrs[name] = []byte(value)
			}
		}
		if entry.Content, err = io.ReadAll(reader); err != nil {
			found.Error = err.Error()
			return found
		}
		found.Entries = append(found.Entries, entry)
	}
}
