package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/configs"
)

func newFmt() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fmt [-check] [-diff] PATH...",
		Short: "Format HCL files in place",
		Long: `Fmt writes .hcl files in the canonical form. A folder stands for all .hcl files in it and below, as validate reads
them: without those that begin with a dot, and links are not followed; "-" for standard input to standard output.
With -check nothing is written, and the exit code is 2 if a file is not formatted. It is 2 too if a file cannot be
read or is no HCL; the others are formatted all the same.`,
		Args: args(cobra.MinimumNArgs(1)),
	}
	check := cmd.Flags().Bool("check", false, "only list files that are not formatted")
	diff := cmd.Flags().Bool("diff", false, "print what changes")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		f := formatter{check: *check, diff: *diff, out: cmd.OutOrStdout()}
		var failed []error
		for _, path := range a {
			failed = append(failed, f.path(cmd.InOrStdin(), path))
		}
		wrong := refuse(cmd.ErrOrStderr(), f.diags)
		err := errors.Join(failed...)
		var usage *invalid
		switch {
		case errors.As(err, &usage):
			return &invalid{err}
		case err != nil:
			return err
		}
		if wrong == nil && f.check && f.changed > 0 {
			return &invalid{}
		}
		return wrong
	}
	return cmd
}

// formatter formats files, counts those that were not formatted and gathers what is wrong with the others.
type formatter struct {
	check, diff bool
	out         io.Writer
	changed     int
	diags       configs.Diagnostics
}

func (f *formatter) path(stdin io.Reader, path string) error {
	if path == "-" {
		return f.stdin(stdin)
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &invalid{err}
	case err != nil || !info.IsDir():
		return f.named(path)
	}
	found := false
	var failed []error
	_ = filepath.WalkDir(path+string(filepath.Separator), func(p string, d fs.DirEntry, err error) error { // the slash follows a link
		if err != nil {
			failed = append(failed, err)
			return nil // go on with the others
		}
		hidden := strings.HasPrefix(d.Name(), ".") && filepath.Clean(p) != filepath.Clean(path)
		switch {
		case d.IsDir() && hidden:
			return filepath.SkipDir
		case d.IsDir() || hidden || filepath.Ext(p) != ".hcl":
			return nil
		}
		found = true
		if d.Type()&fs.ModeSymlink != 0 {
			return nil // what it leads to is formatted at its own place, if that is here
		}
		failed = append(failed, f.file(filepath.Clean(p)))
		return nil
	})
	if err := errors.Join(failed...); err != nil || found {
		return err
	}
	return &invalid{fmt.Errorf("%s: no .hcl file", printable(path))}
}

// named formats a file that was named, and not found in a folder: where a link leads is what is meant.
func (f *formatter) named(path string) error {
	if filepath.Ext(path) != ".hcl" {
		return &invalid{fmt.Errorf("%s: no .hcl file", printable(path))}
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	return f.file(path)
}

func (f *formatter) stdin(stdin io.Reader) error {
	src, err := io.ReadAll(stdin)
	if err != nil {
		return err
	}
	const name = "standard input"
	text, ok := f.format(name, src)
	switch {
	case !ok:
		return nil
	case f.check || f.diff:
		f.tell(name, src, text)
		return nil
	}
	_, err = f.out.Write(text)
	return err
}

func (f *formatter) file(path string) error {
	src, diags := configs.ReadFile(path)
	f.diags = append(f.diags, diags...)
	if diags.HasErrors() {
		return nil
	}
	text, ok := f.format(path, src)
	if !ok || string(text) == string(src) {
		return nil
	}
	f.tell(path, src, text)
	if f.check {
		return nil
	}
	return replace(path, text)
}

// format formats a text. It reports false, after a diagnostic, if that is no HCL.
func (f *formatter) format(name string, src []byte) ([]byte, bool) {
	text, diags := configs.Format(name, src)
	f.diags = append(f.diags, diags...)
	return text, len(diags) == 0
}

// tell says that a file was not formatted, or how.
func (f *formatter) tell(name string, src, text []byte) {
	if string(text) == string(src) {
		return
	}
	f.changed++
	if f.diff {
		fmt.Fprint(f.out, configs.Diff(name, src, text))
	} else {
		fmt.Fprintln(f.out, printable(name))
	}
}

// replace writes a file anew and puts it in the place of the old one, with its mode and owner, so that nobody ever
// reads half of it and nothing is lost if the disk is full. The name of the new one begins with a dot: such files are
// no policy.
func replace(path string, text []byte) (err error) {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".wattle-fmt-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name())
		}
	}()
	_, err = tmp.Write(text)
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && err == nil && (int(owner.Uid) != os.Geteuid() || int(owner.Gid) != os.Getegid()) {
		err = tmp.Chown(int(owner.Uid), int(owner.Gid))
	}
	if err == nil {
		err = tmp.Chmod(info.Mode()) // after the owner, whose change takes bits away
	}
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}
