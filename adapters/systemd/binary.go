package systemd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"time"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/internal/admin"
	"github.com/wattle-mesh/wattle/internal/launch"
)

// versionLimit is how long a binary may take to say its version.
const versionLimit = 5 * time.Second

// binaries remembers which of the binaries that plans name are fit to run. Adapter.mu guards it.
type binaries struct {
	looked map[string]look           // by path
	said   map[string]string         // what is wrong, by proxy
	good   map[string]string         // the path that a proxy has, by proxy; empty: what the adapter was made with
	before map[string]string         // and had before that
	failed map[string]adapters.Proxy // with an Envoy that did not come to serve in its predecessor's place, by proxy
}

func newBinaries() binaries {
	return binaries{map[string]look{}, map[string]string{}, map[string]string{}, map[string]string{}, map[string]adapters.Proxy{}}
}

// look is what a file was when it was asked.
type look struct {
	size    int64
	changed time.Time
	release string
	err     error
}

// binary returns the path that the Envoy of p is to start from: that of the plan, if it is there, runs on this host and has
// the version that it must have; else the one before. It says what is wrong, once. a.mu is held.
func (a *Adapter) binary(p adapters.Proxy) string {
	before := cmp.Or(a.bin.good[p.Name], a.o.Envoy)
	if p.Version == "" {
		delete(a.bin.good, p.Name)
		return a.o.Envoy
	}
	path := cmp.Or(p.Envoy, a.o.Envoy)
	err := a.fit(path, p.Version)
	if f := a.bin.failed[p.Name]; err == nil && f.Envoy == p.Envoy && f.Version == p.Version {
		err = fmt.Errorf("%s did not come to serve in the place of the one before; it is tried again when the policy names another, or when the agent starts", path)
	}
	if err == nil {
		if good := a.bin.good[p.Name]; good != path {
			a.bin.before[p.Name], a.bin.good[p.Name] = good, path
		}
		delete(a.bin.said, p.Name)
		return path
	}
	if text := err.Error(); a.bin.said[p.Name] != text {
		a.bin.said[p.Name] = text
		a.o.Log.Error("the Envoy that the policy names is not used", "proxy", p.ID, "error", err, "instead", before)
	}
	return before
}

var releasePattern = regexp.MustCompile(`version: [0-9a-f]+/([0-9]+\.[0-9]+\.[0-9]+)`)

// fit returns why a binary is not one of this version that runs here. a.mu is held.
func (a *Adapter) fit(path, version string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	l, known := a.bin.looked[path]
	if !known || l.size != info.Size() || !l.changed.Equal(info.ModTime()) {
		l = look{size: info.Size(), changed: info.ModTime()}
		ctx, cancel := context.WithTimeout(context.Background(), versionLimit)
		defer cancel()
		out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
		if m := releasePattern.FindSubmatch(out); err == nil && m != nil {
			l.release = string(m[1])
		} else {
			l.err = fmt.Errorf("%s does not run on this host or is no Envoy: %q (%w)", path, short(out), cmp.Or(err, errNoVersion))
		}
		a.bin.looked[path] = l
	}
	if l.err == nil && l.release != version {
		return fmt.Errorf("%s is version %s, not %s", path, l.release, version)
	}
	return l.err
}

var errNoVersion = errors.New("it says no version")

func short(out []byte) []byte { return out[:min(len(out), 300)] }

// renew has an Envoy replaced that is not of the version that it must be, if there is a binary that is. It reports whether it
// has begun to.
func (f *follower) renew(ctx context.Context, p adapters.Proxy, unit string) bool {
	f.Adapter.mu.Lock()
	_, wrong := f.bin.said[p.Name]
	f.Adapter.mu.Unlock()
	if p.Version == "" || wrong || time.Now().Before(f.late[unit]) {
		return false
	}
	server, err := admin.New(filepath.Join(f.envoys, p.Name, launch.AdminSocket)).Server(ctx)
	if err != nil || server.State != admin.Live || server.Release() == p.Version {
		return false // it is looked at again
	}
	f.o.Log.Info("a proxy is replaced by hot restart", "proxy", p.ID, "runs", server.Release(), "from_now_on", p.Version)
	f.late[unit] = time.Now().Add(again)
	f.jobThen(ctx, unit, "reload", f.conn.ReloadUnitContext, func(err error) {
		if err == nil {
			return
		}
		f.Adapter.mu.Lock()
		f.bin.failed[p.Name], f.bin.good[p.Name] = p, f.bin.before[p.Name]
		f.Adapter.mu.Unlock()
		f.poke()
	})
	return true
}
