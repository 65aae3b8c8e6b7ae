package registry

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// credentialScheme begins the path of a file that systemd gave to the server's unit (LoadCredential=, systemd.exec(5)).
const credentialScheme = "credential:"

// ResolvePath returns where a file lies that a registry block names: relative to the configuration's folder dir, or
// "credential:NAME", a credential of the unit.
func ResolvePath(dir, path string) (string, error) {
	name, ok := strings.CutPrefix(path, credentialScheme)
	switch {
	case !ok && (path == "" || filepath.IsAbs(path)):
		return path, nil
	case !ok:
		return filepath.Join(dir, path), nil
	}
	if name == "" || name == ".." || name == "." || strings.Contains(name, "/") {
		return "", errors.New(`a credential is written "credential:NAME", with the name that LoadCredential= of the server's unit gives it`)
	}
	folder := os.Getenv("CREDENTIALS_DIRECTORY")
	if folder == "" {
		return "", errors.New("the server got no credentials from systemd; add LoadCredential=" + name + ":/path/of/the/file to its unit (systemctl edit wattle-server), or write the path of a file")
	}
	return filepath.Join(folder, name), nil
}
