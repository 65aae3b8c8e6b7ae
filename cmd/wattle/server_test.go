package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/wattle-mesh/wattle/internal/store"
)

// What an operator asks for once is done once, and is asked for until it is done.
func TestAStoreIsRenewedBeforeTheOperatorsFileGoes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	log, older := slog.New(slog.DiscardHandler), filepath.Join(dir, olderFile)
	ask := func() {
		t.Helper()
		if err := os.WriteFile(older, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, asked := range []bool{false, true, false} {
		if asked {
			ask()
		}
		s, err := openStore(log, dir)
		if err != nil {
			t.Fatal(err)
		}
		ids[s.ID()] = true
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(older); err == nil || len(ids) != 2 {
		t.Errorf("ids %v, the file is there: %t", ids, err == nil)
	}
	closed, err := store.Open(filepath.Join(dir, storeFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	ask()
	if err := renew(log, closed, older); err == nil {
		t.Error("a store that cannot be written is renewed")
	}
	if _, err := os.Stat(older); err != nil {
		t.Error(err)
	}
}
