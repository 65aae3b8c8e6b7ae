package configs

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
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

func TestWatchTellsOfAFolderThatComesBack(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "policy")
	write := func() {
		t.Helper()
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "a.hcl"), []byte("mesh {}\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write()
	ctx, cancel := context.WithCancel(t.Context())
	seen := make(chan bool, 100) // whether the file was there
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, dir, func() {
			_, err := os.Stat(filepath.Join(dir, "a.hcl"))
			seen <- err == nil
		})
	}()
	until := func(want bool) {
		t.Helper()
		for limit := time.After(10 * time.Second); ; {
			select {
			case now := <-seen:
				if now == want {
					return
				}
			case <-limit:
				t.Fatalf("a folder whose file is there: %t, not noticed", want)
			}
		}
	}
	until(true)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	until(false)
	write()
	until(true)
	aside := filepath.Join(parent, "aside")
	if err := os.Rename(dir, aside); err != nil {
		t.Fatal(err)
	}
	until(false)
	if err := os.Rename(aside, dir); err != nil {
		t.Fatal(err)
	}
	until(true)
	if err := os.Remove(filepath.Join(dir, "a.hcl")); err != nil { // it is watched again
		t.Fatal(err)
	}
	until(false)
	cancel()
	if err := <-done; err != nil {
		t.Fatalf("Watch: %v", err)
	}
}
