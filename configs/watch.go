package configs

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	watchPoll  = 30 * time.Second      // finds what a file system does not announce (network mounts)
	watchQuiet = 10 * time.Millisecond // editors write a file in several steps
	watchLimit = 50 * time.Millisecond // a folder that never rests is read all the same
)

// Watch calls changed once at the start and whenever something in the folder dir or below may have changed. It
// does not know whether it really did: callers compare. It watches folders, not files, so that files that are
// replaced by renaming are seen, and calls changed every 30 s besides. It returns nil when ctx is done.
func Watch(ctx context.Context, dir string, changed func()) error {
	return WatchAgain(ctx, dir, func() time.Duration { changed(); return 0 })
}

// WatchAgain is Watch, and calls changed again after the time that it returned last, if that is not zero.
func WatchAgain(ctx context.Context, dir string, changed func() (again time.Duration)) error {
	return watch(ctx, dir, addFolders, changed)
}

// WatchFile is Watch for one file, as WatchFileAgain is WatchAgain. It watches the folders that the file and what it links to are in, not what else is in
// there.
func WatchFile(ctx context.Context, file string, changed func()) error {
	return WatchFileAgain(ctx, file, func() time.Duration { changed(); return 0 })
}

// WatchFileAgain is WatchFile, and calls changed again after the time that it returned last, if that is not zero.
func WatchFileAgain(ctx context.Context, file string, changed func() (again time.Duration)) error {
	return watch(ctx, file, func(w *fsnotify.Watcher, file string) {
		_ = w.Add(filepath.Dir(file))
		if target, err := filepath.EvalSymlinks(file); err == nil && target != file {
			_ = w.Add(target)
		}
	}, changed)
}

// watch calls changed for what happens at path or below. What add adds to the watcher may be more than that.
func watch(ctx context.Context, path string, add func(*fsnotify.Watcher, string), changed func() time.Duration) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	defer w.Close()
	dir, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	add(w, dir)
	again := after(changed())

	poll := time.NewTicker(watchPoll)
	defer poll.Stop()
	var quiet, limit <-chan time.Time // both nil while nothing is pending
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Events:
			if !ok {
				return fmt.Errorf("watch %s: the watcher closed", dir)
			}
			if e.Name != dir && !strings.HasPrefix(e.Name, dir+string(filepath.Separator)) {
				continue // something else in the folder's parent
			}
			quiet = time.After(watchQuiet)
			if limit == nil {
				limit = time.After(watchLimit)
			}
			continue
		case <-w.Errors: // an overflow: events were lost, so something changed
		case <-poll.C:
		case <-quiet:
		case <-limit:
		case <-again:
		}
		quiet, limit = nil, nil
		add(w, dir) // folders that are new; those known are no-ops
		again = after(changed())
	}
}

// after is time.After; nil for no time.
func after(d time.Duration) <-chan time.Time {
	if d == 0 {
		return nil
	}
	return time.After(d)
}

// addFolders watches dir and the folders below it that do not begin with a dot, and dir's parent, which knows when dir
// comes back. What cannot be watched is left to the poll.
func addFolders(w *fsnotify.Watcher, dir string) {
	_ = w.Add(filepath.Dir(dir))
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if path != dir && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		_ = w.Add(path)
		return nil
	})
}
