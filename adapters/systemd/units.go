package systemd

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/wattle-mesh/wattle/systemd"
)

// runUnits is where units live that are gone after the next start of the host.
func (a *Adapter) runUnits() string { return filepath.Join(a.run, "system") }

// packaged is the path of this program that the units name.
const packaged = "/usr/bin/wattle"

// placeUnit writes one of our units into dir, for this program wherever it lies.
func placeUnit(dir, name string) error {
	text, err := systemd.Unit(name)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	text = bytes.ReplaceAll(text, []byte("="+packaged+" "), []byte("="+self+" "))
	_, err = place(filepath.Join(dir, name), text)
	return err
}

// placeNewer writes the drop-ins for those units that a systemd of this version knows.
func placeNewer(dir string, of []string, version int) error {
	files, err := systemd.Newer(version)
	for _, f := range files {
		if unit := strings.TrimSuffix(filepath.Dir(f.Path), ".d"); err == nil && slices.Contains(of, unit) {
			path := filepath.Join(dir, f.Path)
			if err = folder(filepath.Dir(path)); err == nil {
				_, err = place(path, f.Text)
			}
		}
	}
	return err
}

// place replaces a file that everybody may read, if it differs.
func place(path string, text []byte) (changed bool, err error) {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, text) {
		return false, nil
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, text, 0o644); err != nil {
		return false, errors.Join(err, os.Remove(tmp)) // half of it is of no use
	}
	return true, errors.Join(os.Chmod(tmp, 0o644), os.Rename(tmp, path))
}

// folder makes a folder of drop-ins, whatever the umask.
func folder(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return err
	}
	return os.Chmod(dir, 0o755)
}
