// Package facts finds out what a host is: its system, kernel and processors, and what files say of it. In come the files of
// a machine, out come facts by name, and what is wrong with the files.
package facts

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Max is how many facts are read, and maxFile is how large a file may be.
const (
	Max     = 64
	maxFile = 16 << 10 // bytes
)

// releases are the files that say which system this is (os-release(5)), the first that there is.
var releases = []string{"/etc/os-release", "/usr/lib/os-release"}

// Read returns the facts of this machine and those of the files in dir, which may be missing. A file has lines NAME = VALUE, with
// # before comments; one that is a single line without "=" is a fact that is called like the file, without ".txt" or the
// like. check says what is wrong with a fact: it is left out, and faults says so. What files say goes before what is found out.
func Read(dir string, check func(name, value string) error) (all map[string]string, faults []error) {
	all = system()
	for name, value := range all {
		if check(name, value) != nil { // a system may call itself what it wants
			delete(all, name)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		faults = append(faults, err)
	}
	from := map[string]string{}
	for _, f := range files { // sorted
		if strings.HasPrefix(f.Name(), ".") || strings.HasSuffix(f.Name(), "~") || f.IsDir() {
			continue
		}
		path := filepath.Join(dir, f.Name())
		found, err := readFile(path)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		for _, x := range found {
			where := fmt.Sprintf("%s:%d", path, x.line)
			before, twice := from[x.name]
			_, known := all[x.name]
			switch err := check(x.name, x.value); {
			case err != nil:
				faults = append(faults, fmt.Errorf("%s: %w", where, err))
			case twice:
				faults = append(faults, fmt.Errorf("%s: %s is a fact of %s already, which counts", where, x.name, before))
			case !known && len(all) >= Max:
				faults = append(faults, fmt.Errorf("%s: a host has at most %d facts", where, Max))
			default:
				all[x.name], from[x.name] = x.value, where
			}
		}
	}
	return all, faults
}

// system finds out what this machine is.
func system() map[string]string {
	all := map[string]string{"cpu.arch": runtime.GOARCH, "cpu.numcores": strconv.Itoa(runtime.NumCPU())}
	var uname unix.Utsname
	if unix.Uname(&uname) == nil {
		all["kernel.version"] = unix.ByteSliceToString(uname.Release[:])
	}
	for _, path := range releases {
		if r, err := release(path); err == nil {
			all["os.name"], all["os.version"] = r["ID"], r["VERSION_ID"]
			break
		}
	}
	return all
}

// release reads an os-release file: lines NAME=VALUE, where a value may be quoted as for a shell.
func release(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	out := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if ok && !strings.HasPrefix(name, "#") {
			out[name] = strings.Trim(value, `"'`)
		}
	}
	return out, err
}

type fact struct {
	name, value string
	line        int
}

func readFile(path string) ([]fact, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, errors.Join(err, fmt.Errorf("%s is no file of facts: it is no regular file, or larger than %d bytes", path, maxFile))
	}
	var out []fact
	bare := ""
	scan := bufio.NewScanner(f)
	for n := 1; scan.Scan(); n++ {
		line := strings.TrimSpace(scan.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			if bare != "" || len(out) > 0 {
				return nil, fmt.Errorf("%s:%d: %q is no fact: write NAME = VALUE, one a line", path, n, line[:min(len(line), 40)])
			}
			bare = line
			base := filepath.Base(path)
			name, value = strings.TrimSuffix(base, filepath.Ext(base)), line
		} else if bare != "" {
			return nil, fmt.Errorf("%s: it has a line without =, and must have no other then: write NAME = VALUE, one a line", path)
		}
		out = append(out, fact{strings.TrimSpace(name), strings.Trim(strings.TrimSpace(value), `"`), n})
	}
	return slices.Clip(out), scan.Err()
}
