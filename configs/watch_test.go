package configs

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

func TestWatchTellsOfFilesInNewFolders(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	calls := make(chan struct{}, 100)
	done := make(chan error, 1)
	go func() { done <- Watch(ctx, dir, func() { calls <- struct{}{} }) }()

	<-calls // at the start
	sub := filepath.Join(dir, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	<-calls
	if err := os.WriteFile(filepath.Join(sub, "a.hcl"), []byte("mesh {}\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	<-calls
	if err := os.Rename(filepath.Join(sub, "a.hcl"), filepath.Join(dir, "b.hcl")); err != nil {
		t.Fatal(err)
	}
	<-calls
	cancel()
	if err := <-done; err != nil {
		t.Fatalf("Watch: %v", err)
	}
}
