package systemd

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"

	"github.com/wattle-mesh/wattle/systemd"
)

// runtimeUnits is where units live that are gone after the next start of the host.
const runtimeUnits = "/run/systemd/system"

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
	path := filepath.Join(dir, name)
	tmp := path + ".tmp"
	return errors.Join(os.WriteFile(tmp, text, 0o644), os.Chmod(tmp, 0o644), os.Rename(tmp, path))
}
