package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// entry is one path of a tree, as lstat and its relatives tell it.
type entry struct {
	stat   unix.Stat_t
	target string            // of a symlink
	xattrs map[string]string // nil where the file system has none
	group  string            // the first path, in byte order, that is the same inode
}

// difference is one thing that is not the same on both sides.
type difference struct{ path, what, a, b string }

func (d difference) String() string {
	return fmt.Sprintf("%s: %s: %s != %s", d.path, d.what, d.a, d.b)
}

// compare walks two trees and prints every difference as `path: what: a != b`. What is compared:
// presence (a special file that B lacks is
// "special-file", not "presence"), type, mode (07777), uid, gid, mtime in whole seconds, xattrs; of everything but
// directories size, number of links and which paths are one inode; targets of symlinks; every byte
// of regular files; device numbers.
func compare(args []string) error {
	flags := flag.NewFlagSet("compare", flag.ContinueOnError)
	var allowed []*allowance
	flags.Func("allow", "file of differences to expect: lines of \"what path # reason\", path * for any; may be repeated", func(file string) error {
		more, err := readAllowances(file)
		allowed = append(allowed, more...)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := positional(flags.Args(), "DIR_A", "DIR_B"); err != nil {
		return err
	}

	roots := [2]string{filepath.Clean(flags.Arg(0)), filepath.Clean(flags.Arg(1))}
	trees, err := inParallel(roots[:], readTree)
	if err != nil {
		return err
	}
	differences, both := compareEntries(trees[0], trees[1])
	contents, err := compareContents(roots[0], roots[1], both)
	if err != nil {
		return err
	}
	return report(append(differences, contents...), allowed, len(trees[0]))
}

// report prints what is not expected, and fails if there is any of it. A difference expected at one
// path that does not show counts too: the lists of the tests are to stay exact.
func report(differences []difference, allowed []*allowance, entries int) error {
	sort.Slice(differences, func(i, j int) bool {
		a, b := differences[i], differences[j]
		return a.path < b.path || a.path == b.path && a.what < b.what
	})
	unexpected := 0
	for _, d := range differences {
		if !allow(allowed, d) {
			unexpected++
			fmt.Println(d)
		}
	}
	fmt.Fprintf(os.Stderr, "%d entries, %d differences, %d of them expected\n",
		entries, len(differences), len(differences)-unexpected)
	for _, a := range allowed {
		if a.used == 0 && a.path != "*" {
			unexpected++
			fmt.Printf("%s: %s: expected to differ (%s), but does not\n", a.path, a.what, a.reason)
		}
	}
	if unexpected > 0 {
		return fmt.Errorf("%w in %d places", errDifferent, unexpected)
	}
	return nil
}

// allowance is a difference that is expected, with the reason why.
type allowance struct {
	what, path, reason string
	used               int
}

func allow(allowed []*allowance, d difference) bool {
	for _, a := range allowed {
		if a.what == d.what && (a.path == "*" || a.path == d.path) {
			a.used++
			return true
		}
	}
	return false
}

func readAllowances(file string) ([]*allowance, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var allowed []*allowance
	for number, line := range strings.Split(string(text), "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		rule, reason, commented := strings.Cut(line, " # ")
		what, path, two := strings.Cut(strings.TrimSpace(rule), " ")
		if !two || !commented {
			return nil, fmt.Errorf("%s line %d is not `what path # reason`: %q", file, number+1, line)
		}
		allowed = append(allowed, &allowance{what: what, path: strings.TrimSpace(path), reason: reason})
	}
	return allowed, nil
}

// readTree reads the attributes of everything below root, by path relative to it.
func readTree(root string) (map[string]*entry, error) {
	tree := map[string]*entry{}
	first := map[[2]uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative := "/" + strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		e, err := readEntry(path)
		if err != nil {
			return err
		}
		tree[relative] = e
		inode := [2]uint64{e.stat.Dev, e.stat.Ino}
		if known, seen := first[inode]; !seen || relative < known {
			first[inode] = relative
		}
		return nil
	})
	for _, e := range tree {
		e.group = first[[2]uint64{e.stat.Dev, e.stat.Ino}]
	}
	return tree, err
}

func readEntry(path string) (*entry, error) {
	e := &entry{}
	if err := unix.Lstat(path, &e.stat); err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	var err error
	if e.stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		if e.target, err = os.Readlink(path); err != nil {
			return nil, err
		}
	}
	e.xattrs, err = readXattrs(path)
	return e, err
}

func readXattrs(path string) (map[string]string, error) {
	buffer := make([]byte, 64<<10) // the kernel's own limit, for the list and for each value
	length, err := unix.Llistxattr(path, buffer)
	if errors.Is(err, unix.ENOTSUP) || length == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: path, Err: err}
	}
	xattrs := map[string]string{}
	for _, name := range strings.Split(strings.TrimSuffix(string(buffer[:length]), "\x00"), "\x00") {
		size, err := unix.Lgetxattr(path, name, buffer)
		if err != nil {
			return nil, &fs.PathError{Op: "getxattr " + name, Path: path, Err: err}
		}
		xattrs[name] = string(buffer[:size])
	}
	return xattrs, nil
}

// compareEntries compares all but content, and returns the paths whose content is left to compare:
// regular files on both sides, each inode of A once.
func compareEntries(a, b map[string]*entry) (differences []difference, files []string) {
	differ := func(path, what string, a, b any) {
		differences = append(differences, difference{path, what, fmt.Sprint(a), fmt.Sprint(b)})
	}
	for path, y := range b {
		if a[path] == nil {
			differ(path, "presence", "absent", typeName(y))
		}
	}
	for path, x := range a {
		y := b[path]
		if y == nil && isSpecial(x) {
			differ(path, "special-file", typeName(x), "absent")
			continue
		}
		if y == nil {
			differ(path, "presence", typeName(x), "absent")
			continue
		}
		if typeName(x) != typeName(y) {
			differ(path, "type", typeName(x), typeName(y))
			continue
		}
		for _, field := range []struct {
			what string
			a, b any
		}{
			{"mode", fmt.Sprintf("%04o", x.stat.Mode&0o7777), fmt.Sprintf("%04o", y.stat.Mode&0o7777)},
			{"uid", x.stat.Uid, y.stat.Uid},
			{"gid", x.stat.Gid, y.stat.Gid},
			{"mtime", x.stat.Mtim.Sec, y.stat.Mtim.Sec},
			{"xattrs", fmt.Sprintf("%q", x.xattrs), fmt.Sprintf("%q", y.xattrs)},
			{"target", x.target, y.target},
			{"device", x.stat.Rdev, y.stat.Rdev},
		} {
			if field.a != field.b {
				differ(path, field.what, field.a, field.b)
			}
		}
		if typeName(x) == "dir" {
			continue // sizes and link counts of directories belong to the file system
		}
		if x.stat.Size != y.stat.Size {
			differ(path, "size", x.stat.Size, y.stat.Size)
		}
		if x.stat.Nlink != y.stat.Nlink {
			differ(path, "nlink", x.stat.Nlink, y.stat.Nlink)
		}
		if x.group != y.group {
			differ(path, "inode", "that of "+x.group, "that of "+y.group)
		}
		if typeName(x) == "file" && (x.group == path || x.group != y.group) {
			files = append(files, path)
		}
	}
	sort.Strings(files) // near the order in which a layer holds them
	return differences, files
}

func typeName(e *entry) string {
	switch e.stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFIFO:
		return "fifo"
	case unix.S_IFCHR:
		return "char"
	case unix.S_IFBLK:
		return "block"
	default:
		return "socket"
	}
}

func isSpecial(e *entry) bool {
	switch typeName(e) {
	case "dir", "file", "symlink":
		return false
	default:
		return true
	}
}

// compareContents compares the bytes of regular files, two files at a time.
func compareContents(a, b string, files []string) ([]difference, error) {
	half := (len(files) + 1) / 2
	found, err := inParallel([][]string{files[:half], files[half:]}, func(paths []string) ([]difference, error) {
		var differences []difference
		buffers := [2][]byte{make([]byte, 256<<10), make([]byte, 256<<10)}
		for _, path := range paths {
			at, err := firstDifference(filepath.Join(a, path), filepath.Join(b, path), buffers)
			if err != nil {
				// Not the end: a file that can't be read is a difference, and there may be more.
				differences = append(differences, difference{path, "bytes", "readable", err.Error()})
			} else if at >= 0 {
				where := fmt.Sprintf("differ from offset %d", at)
				differences = append(differences, difference{path, "bytes", "the same", where})
			}
		}
		return differences, nil
	})
	if err != nil {
		return nil, err
	}
	return append(found[0], found[1]...), nil
}

// firstDifference is the offset of the first byte that is not the same, or -1.
func firstDifference(a, b string, buffers [2][]byte) (int64, error) {
	var files [2]*os.File
	for i, path := range []string{a, b} {
		file, err := os.Open(path)
		if err != nil {
			return 0, err
		}
		defer file.Close()
		files[i] = file
	}
	for offset := int64(0); ; {
		var chunks [2][]byte
		for i, file := range files {
			n, err := io.ReadFull(file, buffers[i])
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return 0, err
			}
			chunks[i] = buffers[i][:n]
		}
		if !bytes.Equal(chunks[0], chunks[1]) {
			shorter := min(len(chunks[0]), len(chunks[1]))
			for i := range shorter {
				if chunks[0][i] != chunks[1][i] {
					return offset + int64(i), nil
				}
			}
			return offset + int64(shorter), nil
		}
		if len(chunks[0]) < len(buffers[0]) {
			return -1, nil
		}
		offset += int64(len(chunks[0]))
	}
}

// inParallel runs f on each input at once and returns the results in the order of the inputs.
func inParallel[In, Out any](inputs []In, f func(In) (Out, error)) ([]Out, error) {
	results := make([]Out, len(inputs))
	failures := make([]error, len(inputs))
	var group sync.WaitGroup
	for i, input := range inputs {
		group.Add(1)
		go func() {
			defer group.Done()
			results[i], failures[i] = f(input)
		}()
	}
	group.Wait()
	return results, errors.Join(failures...)
}
