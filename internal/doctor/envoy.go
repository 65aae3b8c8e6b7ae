package doctor

import (
	"context"
	"debug/elf"
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Series is the one of Envoy that Wattle is tested with.
const Series = "1.40."

// Envoy is the binary of a host.
type Envoy struct {
	Path    string
	Release string // "1.40.0"; empty: it does not run
	Needs   string // of glibc, "2.28"; empty: it is static
	Glibc   string // of the host; empty: there is none
	Err     error  // there is no such binary
}

func (e Envoy) glibcTooOld() bool { return e.Needs != "" && older(e.Glibc, e.Needs) }

const (
	runLimit = 10 * time.Second
	glibc    = "GLIBC_"
)

var release = regexp.MustCompile(`version: [0-9a-f]+/([0-9]+\.[0-9]+\.[0-9]+)`)

// LookAt finds out about the binary at a path.
func LookAt(ctx context.Context, path string) Envoy {
	e := Envoy{Path: path}
	f, err := elf.Open(path)
	if err == nil {
		e.Needs, err = needs(f)
		err = errors.Join(err, f.Close())
	}
	if bad := (*elf.FormatError)(nil); err != nil && !errors.As(err, &bad) { // else a script may start it
		e.Err = err
		return e
	}
	e.Glibc = installed("/lib/*-linux-gnu*/libc.so.6", "/lib64/libc.so.6", "/usr/lib/libc.so.6")
	ctx, cancel := context.WithTimeout(ctx, runLimit)
	defer cancel()
	if out, err := exec.CommandContext(ctx, path, "--version").Output(); err == nil {
		if m := release.FindSubmatch(out); m != nil {
			e.Release = string(m[1])
		}
	}
	return e
}

// needs returns the newest version of glibc whose symbols a binary wants.
func needs(f *elf.File) (string, error) {
	all, err := f.DynamicVersionNeeds()
	if errors.Is(err, elf.ErrNoSymbols) {
		return "", nil
	}
	newest := ""
	for _, lib := range all {
		for _, n := range lib.Needs {
			newest = later(newest, n.Dep)
		}
	}
	return newest, err
}

// installed returns the version of the first of these libraries.
func installed(patterns ...string) string {
	for _, p := range patterns {
		paths, _ := filepath.Glob(p)
		for _, path := range paths {
			f, err := elf.Open(path)
			if err != nil {
				continue
			}
			all, err := f.DynamicVersions()
			_ = f.Close()
			newest := ""
			for _, v := range all {
				newest = later(newest, v.Name)
			}
			if err == nil && newest != "" {
				return newest
			}
		}
	}
	return ""
}

// later returns the later of a version and one that a symbol's version names, if it is one of glibc.
func later(v, symbol string) string {
	if n, ok := strings.CutPrefix(symbol, glibc); ok && numbers(n) != nil && older(v, n) {
		return n
	}
	return v
}

// older reports whether version a is older than b. An empty one is older than all.
func older(a, b string) bool {
	x, y := numbers(a), numbers(b)
	for i := range max(len(x), len(y)) {
		if at(x, i) != at(y, i) {
			return at(x, i) < at(y, i)
		}
	}
	return false
}

func at(all []int, i int) int {
	if i < len(all) {
		return all[i]
	}
	return 0
}

func numbers(v string) (out []int) {
	for _, part := range strings.Split(v, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil
		}
		out = append(out, n)
	}
	return out
}
