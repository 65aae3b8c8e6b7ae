package main

import (
	"testing"

	"github.com/prometheus/procfs"
)

// mappedFiles is how many bytes of files are mapped into this process and in memory.
func mappedFiles(t *testing.T) uint64 {
	t.Helper()
	p, err := procfs.Self()
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.NewStatus()
	if err != nil {
		t.Fatal(err)
	}
	return s.RssFile
}

func TestWhatOnlyTheStartNeededIsGivenBack(t *testing.T) {
	before := mappedFiles(t)
	if err := unmap(); err != nil {
		t.Fatal(err)
	}
	if after := mappedFiles(t); after > before/2 {
		t.Errorf("%d KB of files are mapped, %d KB before", after>>10, before>>10)
	}
}
