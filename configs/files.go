package configs

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

const (
	maxFile   = 4 << 20
	maxFolder = 64 << 20
	maxFiles  = 20_000
	maxRead   = 1 << 20 // of a text that file() reads
)

// entry is a policy file as its folder lists it.
type entry struct {
	path string
	info fs.FileInfo // nil if it is not known
}

// isPolicyFile reports whether a file is read.
func isPolicyFile(name string) bool {
	return strings.HasSuffix(name, ".hcl") || strings.HasSuffix(name, ".json")
}

// openFolder opens a folder so that nothing outside of it can be read, and lists its policy files. The root is nil
// if there is no such folder; the caller closes it.
func openFolder(dir string) (*os.Root, []entry, Diagnostics) {
	info, err := os.Stat(dir)
	if err == nil && info.Mode().IsRegular() {
		root, err := os.OpenRoot(filepath.Dir(dir))
		if err != nil {
			return nil, nil, folderFailed(dir, err)
		}
		return root, []entry{{path: filepath.Base(dir)}}, nil
	}
	if err != nil {
		return nil, nil, folderFailed(dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, nil, folderFailed(dir, err)
	}
	entries, diags := listFiles(root)
	if len(entries) == 0 && len(diags) == 0 {
		diags = append(diags, Diagnostic{Severity: Warning, Code: codeNoPolicy, Summary: fmt.Sprintf("no policy files in %s", dir), Detail: "Policy files end in .hcl or .json. Correct the path, or put one there."})
	}
	return root, entries, diags
}

func folderFailed(dir string, err error) Diagnostics {
	var reason *fs.PathError
	if errors.As(err, &reason) {
		err = reason.Err
	}
	return Diagnostics{{Severity: Error, Code: codeFolder, Summary: fmt.Sprintf("folder %s cannot be read: %v", dir, err), Detail: "Name a folder of policy files that this user may read."}}
}

// listFiles walks the folder. The order is that of the paths.
func listFiles(root *os.Root) ([]entry, Diagnostics) {
	var entries []entry
	var diags Diagnostics
	_ = fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			diags = append(diags, unreadable(p, err, false))
			if d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		hidden := strings.HasPrefix(d.Name(), ".") && p != "."
		switch {
		case d.IsDir() && hidden:
			return fs.SkipDir
		case d.IsDir() || hidden:
			return nil
		}
		if d.Type()&fs.ModeSymlink != 0 {
			if info, err := os.Stat(filepath.Join(root.Name(), filepath.FromSlash(p))); err == nil && info.IsDir() {
				diags = append(diags, Diagnostic{Severity: Warning, Code: codeSymlink, File: p, Summary: "a link to a folder is not followed", Detail: "Move the folder here, or give it to the command itself."})
				return nil
			}
		}
		if !isPolicyFile(d.Name()) {
			return nil
		}
		if len(entries) == maxFiles {
			diags = append(diags, Diagnostic{Severity: Error, Code: codeTooBig, Summary: "the folder has too many files", Detail: fmt.Sprintf("It may have %d.", maxFiles)})
			return fs.SkipAll
		}
		info, err := d.Info()
		if err != nil {
			info = nil
		}
		entries = append(entries, entry{p, info})
		return nil
	})
	return entries, diags
}

// racy is how long after a change a file may change again without a new time stamp.
const racy = 2 * time.Second

// read reads the file unless it is the same as before. A removed file is as if it had not been listed.
func (f *file) read(root *os.Root, listed fs.FileInfo) {
	if f.unchanged(listed) {
		return
	}
	readAt := time.Now()
	info, err := root.Stat(f.path)
	var data []byte
	if err == nil {
		data, err = readFile(root, f.path, info, maxFile)
	}
	if err == nil && f.src != nil && string(data) == string(f.src.data) {
		f.info, f.readAt = info, readAt
		return
	}
	*f = file{path: f.path, link: isLink(root, f.path)}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) || f.link {
			d := fileFailed(f.path, f.link, err)
			f.diag = &d
		}
		return
	}
	f.info, f.readAt, f.src = info, readAt, &source{path: f.path, data: data}
}

// unchanged reports whether a file, as the folder lists it, is surely the one that was read.
func (f *file) unchanged(listed fs.FileInfo) bool {
	return f.src != nil && f.info != nil && listed != nil && listed.Mode().IsRegular() && os.SameFile(listed, f.info) &&
		listed.Size() == f.info.Size() && listed.ModTime().Equal(f.info.ModTime()) && f.readAt.Sub(listed.ModTime()) > racy
}

// ReadFile reads one file as a Loader does: a regular file of no more than 4 MiB, and of links those that stay in its
// folder. The diagnostics, which call it path, have one error if it cannot be read.
func ReadFile(path string) ([]byte, Diagnostics) {
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, Diagnostics{unreadable(path, err, false)}
	}
	defer root.Close()
	name := filepath.Base(path)
	info, err := root.Stat(name)
	var data []byte
	if err == nil {
		data, err = readFile(root, name, info, maxFile)
	}
	if err != nil {
		return nil, Diagnostics{fileFailed(path, isLink(root, name), err)}
	}
	return data, nil
}

var (
	errTooBig  = errors.New("too big")
	errNotFile = errors.New("not a regular file")
)

func readFile(root *os.Root, name string, info fs.FileInfo, limit int64) ([]byte, error) {
	switch {
	case !info.Mode().IsRegular():
		return nil, errNotFile
	case info.Size() > limit:
		return nil, errTooBig
	}
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // should it have become a pipe, opening it does not wait
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if now, err := f.Stat(); err != nil || !now.Mode().IsRegular() {
		return nil, cmp.Or(err, errNotFile)
	}
	data := make([]byte, 0, info.Size()+1)
	for {
		n, err := f.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		switch {
		case err == io.EOF:
			return data, nil
		case err != nil:
			return nil, err
		case int64(len(data)) > limit:
			return nil, errTooBig
		case len(data) == cap(data):
			data = append(data, 0)[:len(data)]
		}
	}
}

// readText reads a file for file().
func readText(root *os.Root, name string) (*source, error) {
	info, err := root.Stat(name)
	if err != nil {
		return nil, reason(err)
	}
	data, err := readFile(root, name, info, maxRead)
	if err != nil {
		return nil, reason(err)
	}
	if !utf8.Valid(data) {
		return nil, errors.New("not UTF-8")
	}
	return &source{path: name, data: data}, nil
}

// reason is an error without the path, which the message has already.
func reason(err error) error {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err
	}
	return err
}

func isLink(root *os.Root, name string) bool {
	info, err := root.Lstat(name)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// wholeFile makes an error about a file of which nothing can be shown.
func wholeFile(code, name, summary, detail string) Diagnostic {
	return Diagnostic{Severity: Error, Code: code, File: name, Line: 1, Column: 1, Summary: summary, Detail: detail}
}

// unreadable says why a file cannot be read, and what to do about just that.
func unreadable(name string, err error, link bool) Diagnostic {
	detail := "Mend what the message says, or remove the file."
	switch {
	case errors.Is(err, fs.ErrPermission):
		detail = "Give this user the right to read it, or remove it."
	case errors.Is(err, fs.ErrNotExist) && link:
		detail = "The link leads nowhere: correct or remove it."
	case errors.Is(err, fs.ErrNotExist):
		detail = "Correct the path, or make the file."
	case errors.Is(err, syscall.ELOOP):
		detail = "The links lead in a circle: put the file in the place of one of them, or remove them."
	case errors.Is(err, errNotFile):
		detail = "Only regular files are read: move it away, or give it a name that does not end in .hcl or .json."
	}
	name = path.Clean(name)
	return wholeFile(codeFile, name, fmt.Sprintf("%s cannot be read: %v", name, reason(err)), detail)
}

// fileFailed says why a file, or what a link of that name leads to, is not read.
func fileFailed(name string, link bool, err error) Diagnostic {
	known := errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ELOOP) || errors.Is(err, errNotFile)
	switch {
	case errors.Is(err, errTooBig):
		return wholeFile(codeTooBig, name, name+" is too big", fmt.Sprintf("A file may have %d MiB. Spread it over several, or use dynamic blocks.", maxFile>>20))
	case link && !known:
		return wholeFile(codeSymlink, name, name+" leads out of the folder", "Links are followed only to files below the folder. Copy the file here.")
	}
	return unreadable(name, err, link)
}

func invalidUTF8(src *source) Diagnostic {
	at := 0
	for at < len(src.data) {
		r, n := utf8.DecodeRune(src.data[at:])
		if r == utf8.RuneError && n == 1 {
			break
		}
		at += n
	}
	return src.at(at).diagnostic(Error, codeUTF8, "the file is not UTF-8", "Save it as UTF-8 in your editor.")
}
