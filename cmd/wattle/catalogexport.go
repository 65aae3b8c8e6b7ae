package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/registry/static"
)

func newCatalogExport() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export [-dir DIR] [-registry NAME] [-namespace NAMESPACE]",
		Short: "Write today's catalog as files of a static registry",
		Long: `Export writes the catalog in force as files that a static registry reads: to go on without a registry, or to keep what it
said. A service is NAMESPACE/NAME.hcl, a host with its workloads HOST.host.hcl. Without -dir all of it is printed, and
makes one file. What files cannot say is named on standard error.

With -registry only the endpoints are written that this registry names; what agents or the policy say of workloads at
these places stays theirs. Health is written as it is now: a file that says "unhealthy" says so until it is edited.
DIR is made if need be. One that holds anything is refused; with -force files of the same names in it are replaced, and
others stay.`,
		Args: args(cobra.NoArgs),
	}
	client := readFlags(cmd)
	dir := cmd.Flags().String("dir", "", "the folder to write to, `DIR`")
	force := cmd.Flags().Bool("force", false, "write to a folder that is not empty")
	var o static.ExportOptions
	cmd.Flags().StringVar(&o.Registry, "registry", "", "only what the registry `NAME` says")
	cmd.Flags().StringVar(&o.Namespace, "namespace", "", "only services of this `NAMESPACE`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *force && *dir == "" {
			return &invalid{errors.New("-force is about -dir, which is missing")}
		}
		if err := mayFill(*dir, *force); err != nil {
			return err
		}
		c := client()
		defer c.Close()
		text, err := c.Catalog(cmd.Context())
		if err != nil {
			return err
		}
		var all struct{ Services []*registry.Service }
		if err := json.Unmarshal(text, &all); err != nil {
			return fmt.Errorf("read the catalog: %w", err)
		}
		files, left := static.Export(all.Services, o)
		for _, l := range left {
			fmt.Fprintf(cmd.ErrOrStderr(), "wattle: not exported: %s\n", l)
		}
		if *dir == "" {
			return printFiles(cmd.OutOrStdout(), files)
		}
		if err := fill(*dir, files); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s: %s written\n", *dir, count(len(files), "file", "files"))
		return nil
	}
	return cmd
}

func newCatalogSchema() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of a static registry's files",
		Long: `Schema prints the JSON Schema (draft 2020-12) of a .json file in the folder of a static registry, for editors and for
checks before a file is written. It needs no server.`,
		Args: args(cobra.NoArgs),
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		_, err := io.WriteString(cmd.OutOrStdout(), static.Schema())
		return err
	}
	return cmd
}

// mayFill refuses a folder that holds something, unless force says that it is meant.
func mayFill(dir string, force bool) error {
	if dir == "" || force {
		return nil
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(entries) > 0:
		return &invalid{fmt.Errorf("%s is not empty; name another folder, or write into it with -force", printable(dir))}
	}
	return nil
}

// fill writes files into a folder. Each is there whole or not at all.
func fill(dir string, files []static.File) error {
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		half := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new") // which no registry reads
		err := os.WriteFile(half, f.Text, 0o644)
		if err == nil {
			err = os.Rename(half, path)
		}
		if err != nil {
			return errors.Join(err, os.RemoveAll(half))
		}
	}
	return os.MkdirAll(dir, 0o755) // also when there is nothing to write
}

// printFiles prints files so that they make one.
func printFiles(w io.Writer, files []static.File) error {
	for i, f := range files {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if _, err := fmt.Fprintf(w, "# %s\n%s", f.Path, f.Text); err != nil {
			return err
		}
	}
	return nil
}
