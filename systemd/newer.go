package systemd

import (
	"embed"
	"io/fs"
	"path"
	"regexp"
	"strconv"
)

// newer holds settings that the oldest systemd we run with does not know: newer/VERSION/UNIT.d/*.conf are for that version
// and later ones.
//
//go:embed newer
var newer embed.FS

// Newer lists the drop-ins that a systemd of this version knows, with paths relative to a folder of units. Packages do the
// same when they are installed: packages/scripts/postinstall.sh.
func Newer(version int) ([]File, error) {
	var out []File
	err := fs.WalkDir(newer, "newer", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		folder, file := path.Split(name)
		since, err := strconv.Atoi(path.Base(path.Dir(path.Clean(folder))))
		if err != nil || since > version {
			return err
		}
		text, err := newer.ReadFile(name)
		out = append(out, File{path.Join(path.Base(folder), file), text})
		return err
	})
	return out, err
}

var leading = regexp.MustCompile(`^"?([0-9]+)`)

// Version returns the number in what systemd says of its version: "252.39-1~deb12u2". Zero: there is none in it.
func Version(text string) int {
	m := leading.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1]) // digits; one that is too large is no version
	return n
}
