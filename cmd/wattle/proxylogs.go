package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/adapters/process"
)

func newProxyLogs() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Print what an Envoy of this host says",
		Long: `Logs prints the last lines of the journal of the Envoy's unit, or of envoy.log in its folder where it is a process of the
agent's. It needs root, or the right to read the journal.`,
		Args: args(cobra.ExactArgs(1)),
	}
	dir := runDirFlags(cmd)
	follow := cmd.Flags().BoolP("follow", "f", false, "go on with what comes")
	lines := cmd.Flags().IntP("lines", "n", 100, "how many `LINES`")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		if *lines < 0 {
			return &invalid{errors.New("-n is less than nothing")}
		}
		p, err := hereOf(dir(), a[0])
		if err != nil {
			return err
		}
		if p.Unit == "" {
			return tail(cmd.Context(), cmd.OutOrStdout(), filepath.Join(filepath.Dir(p.Bootstrap), process.LogFile), *lines, *follow)
		}
		call := []string{"--no-pager", "--output=short-iso", "--unit=" + p.Unit, "--lines=" + strconv.Itoa(*lines)}
		if *follow {
			call = append(call, "--follow")
		}
		j := exec.CommandContext(cmd.Context(), "journalctl", call...)
		j.Stdout, j.Stderr = cmd.OutOrStdout(), cmd.ErrOrStderr()
		if err := j.Run(); err != nil && cmd.Context().Err() == nil {
			return fmt.Errorf("journalctl: %w", err)
		}
		return nil
	}
	return cmd
}

// maxTail bounds how much of a file's end is read for its last lines.
const maxTail = 4 << 20 // bytes

// tail prints the last lines of a file, and with follow those that come until ctx is done.
func tail(ctx context.Context, w io.Writer, path string, lines int, follow bool) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("there is no %s: what this Envoy says is in the output of its agent", path)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	from := max(0, size-maxTail)
	text := make([]byte, size-from)
	if _, err := f.ReadAt(text, from); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if _, err := w.Write(lastLines(text, lines)); err != nil {
		return err
	}
	for follow {
		n, err := io.Copy(w, f)
		if err != nil {
			return err
		}
		if n > 0 {
			continue
		}
		if until(ctx, func() bool { info, err := f.Stat(); return err != nil || info.Size() > size }) != nil {
			return nil
		}
		info, err := f.Stat()
		if err != nil {
			return err
		}
		size = info.Size()
	}
	return nil
}

// lastLines returns the last n lines of a text.
func lastLines(text []byte, n int) []byte {
	end := len(bytes.TrimSuffix(text, []byte("\n")))
	for ; n > 0 && end > 0; n-- {
		end = bytes.LastIndexByte(text[:end], '\n')
		if end < 0 {
			return text
		}
	}
	if end == 0 {
		return text
	}
	return text[min(end+1, len(text)):]
}
