// Package launch is what the unit of an Envoy executes: start, hot restart and drain. In go a Spec, which the host's agent
// wrote, and the bootstrap beside it; out comes one serving Envoy, of which systemd is told.
package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// The files of a proxy's folder in the agent's run folder.
const (
	BootstrapFile = "envoy.json"
	specFile      = "launch.json"
)

// Spec says how the Envoy of a proxy is run.
type Spec struct {
	Name        string        `json:"name"`        // on the host: "host", "gw-public"
	Envoy       string        `json:"envoy"`       // path of the binary
	Concurrency uint32        `json:"concurrency"` // worker threads
	LogLevel    string        `json:"log_level"`   // Envoy's
	Drain       time.Duration `json:"drain"`       // how long connections of listeners that go may live on
	Shutdown    time.Duration `json:"shutdown"`    // from a hot restart to the old Envoy's end; more than Drain
}

// ConfigFlag and the path after it are the first arguments of every Envoy, by which it is known from other processes.
const ConfigFlag = "--config-path"

// Args are the arguments that every way of starting the Envoy has.
func (s Spec) Args(bootstrap string) []string {
	return []string{ConfigFlag, bootstrap,
		"--concurrency", strconv.FormatUint(uint64(s.Concurrency), 10),
		"--drain-time-s", seconds(s.Drain),
		"--log-level", s.LogLevel,
		"--log-format", "envoy " + s.Name + " %l %n: %v",
	}
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d.Round(time.Second).Seconds())) }

// Write puts the spec into the proxy's folder, readable by the group of dir. It reports whether it changed.
func (s Spec) Write(dir string) (changed bool, err error) {
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return false, err
	}
	return Place(filepath.Join(dir, specFile), append(text, '\n'))
}

// Place replaces a file that the proxies' group may read, if its content, mode or group differ. The folder's group is the file's.
func Place(path string, text []byte) (changed bool, err error) {
	dir, err := os.Stat(filepath.Dir(path))
	if err != nil {
		return false, err
	}
	if info, err := os.Lstat(path); err == nil && info.Mode() == 0o640 && group(info) == group(dir) {
		if old, err := os.ReadFile(path); err == nil && string(old) == string(text) {
			return false, nil
		}
	}
	tmp := path + ".tmp"
	err = os.WriteFile(tmp, text, 0o640)
	if err == nil {
		err = errors.Join(os.Chmod(tmp, 0o640), os.Lchown(tmp, -1, group(dir)))
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return false, errors.Join(err, remove(tmp))
	}
	return true, nil
}

// Folder makes a folder that a group may enter, and nobody else.
func Folder(dir string, group int) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if err := os.Lchown(dir, -1, group); err != nil {
		return err
	}
	return os.Chmod(dir, 0o750)
}

// Read returns the spec in a proxy's folder.
func Read(dir string) (s Spec, err error) {
	text, err := os.ReadFile(filepath.Join(dir, specFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, fmt.Errorf("this host's agent runs no proxy %s (%w); see wattle proxy status", filepath.Base(dir), err)
	}
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return s, fmt.Errorf("%s: %w", specFile, err)
	}
	return s, nil
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// group returns the group of a file.
func group(info os.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(st.Gid)
}

// IsUnit reports whether the proxy whose folder this is runs as a unit.
func IsUnit(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, specFile))
	return err == nil
}
