package main

import (
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newMan writes the manual for packages. Its date is $SOURCE_DATE_EPOCH, so that equal sources give equal bytes.
func newMan() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the man pages",
		Hidden: true,
		Args:   args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			header := &doc.GenManHeader{Section: "1", Source: "Wattle", Manual: "Wattle"}
			if epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
				date := time.Unix(epoch, 0).UTC()
				header.Date = &date
			}
			return doc.GenManTree(cmd.Root(), header, a[0])
		},
	}
}
