// Package systemd holds the files by which systemd runs Wattle. Packages install them, and an agent puts the units that it
// needs in place where no package did: the same bytes.
package systemd

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
)

//go:embed units sysusers.d tmpfiles.d presets
var files embed.FS

// UnitFolder is where a package puts units.
const UnitFolder = "/usr/lib/systemd/system"

// folders says where what belongs.
var folders = map[string]string{
	"units":      UnitFolder,
	"sysusers.d": "/usr/lib/sysusers.d",
	"tmpfiles.d": "/usr/lib/tmpfiles.d",
	"presets":    "/usr/lib/systemd/system-preset",
}

// File is a file that systemd reads.
type File struct {
	Path string // where a package puts it
	Text []byte
}

// Files lists them all, sorted within their folders.
func Files() ([]File, error) {
	var out []File
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := files.ReadFile(name)
		out = append(out, File{path.Join(folders[path.Dir(name)], path.Base(name)), text})
		return err
	})
	return out, err
}

// Unit returns the text of one unit.
func Unit(name string) ([]byte, error) {
	text, err := files.ReadFile(path.Join("units", name))
	if err != nil {
		return nil, fmt.Errorf("no such unit of ours: %w", err)
	}
	return text, nil
}
