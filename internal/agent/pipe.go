package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/translator"
)

// An Envoy that listens on a unix socket removes whatever is at its path first, and it may run as root. So the agent looks
// there before anybody asks for such a listener, and again before an Envoy gets one.

const (
	pipeEvery  = 2 * time.Second
	pipeRemedy = "choose a path where nothing is, in a folder for sockets such as /run/NAME"
)

// noPipes are folders of the system in which no socket of a mesh belongs.
var noPipes = []string{"/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr"}

// checkPipe says why no Envoy may be told to listen at a path. What cannot be looked at is refused.
func checkPipe(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || len(path) > maxSocketPath || strings.ContainsRune(path, 0) {
		return fmt.Errorf("socket %q: it must be an absolute path of at most %d bytes that has no . or .. in it", path, maxSocketPath)
	}
	folders := []string{filepath.Dir(path)}
	switch real, err := filepath.EvalSymlinks(folders[0]); {
	case err == nil:
		folders = append(folders, real)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("socket %s: its folder cannot be looked at: %w", path, err)
	}
	for _, dir := range folders {
		if i := slices.IndexFunc(noPipes, func(no string) bool { return dir == no || strings.HasPrefix(dir, no+"/") }); i >= 0 || dir == "/" {
			return fmt.Errorf("socket %s: no socket of a mesh belongs into %s", path, dir)
		}
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("socket %s: it cannot be looked at: %w", path, err)
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("socket %s: something else than a socket is there, which Envoy would replace", path)
	}
	return nil
}

// pipeOf returns the path of the unix socket at which a listener listens; empty: at none.
func pipeOf(r *translator.Resource) (string, error) {
	var resource discoveryv3.Resource
	var l listenerv3.Listener
	err := proto.Unmarshal(r.Wire, &resource)
	if err == nil {
		err = resource.GetResource().UnmarshalTo(&l)
	}
	if err != nil {
		return "", fmt.Errorf("listener %s: %w", r.Name, err)
	}
	for _, a := range l.GetAdditionalAddresses() {
		if a.GetAddress().GetPipe() != nil {
			return "", fmt.Errorf("listener %s: a socket is its additional address", r.Name)
		}
	}
	return l.GetAddress().GetPipe().GetPath(), nil
}

// safePipe says why an Envoy may not have a listener, and keeps that in mind.
func (t *table) safePipe(r *translator.Resource) error {
	path, err := pipeOf(r)
	if err != nil {
		return err
	}
	delete(t.pipes, r.Name)
	delete(t.barredPipes, r.Name)
	if path == "" {
		return nil
	}
	t.pipes[r.Name] = path
	if err := checkPipe(path); err != nil {
		t.barredPipes[r.Name] = path
		return fmt.Errorf("listener %s: %w; %s", r.Name, err, pipeRemedy)
	}
	return nil
}

// lookAgain takes listeners away at whose paths something else than a socket is by now, before an Envoy that starts gets them.
func (t *table) lookAgain() (translator.Changes, error) {
	d := t.begin()
	var errs []error
	for name := range t.pipes {
		errs = append(errs, t.serve(d, translator.Key{Type: translator.Listener, Name: name}))
	}
	return d.changes(), errors.Join(errs...)
}

// freed lists the listeners whose paths are safe by now.
func (t *table) freed() []string {
	var out []string
	for name, path := range t.barredPipes {
		if checkPipe(path) == nil {
			out = append(out, name)
			delete(t.barredPipes, name)
		}
	}
	slices.Sort(out)
	return out
}

// lookAgain has the loop look at what is in the way of sockets, and waits for that.
func (r *relay) lookAgain(done <-chan struct{}) {
	looked := make(chan struct{})
	select {
	case r.arrivals <- looked:
	case <-done:
		return
	}
	select {
	case <-looked:
	case <-done:
	}
}

// arrived does that in the loop.
func (r *relay) arrived(looked chan struct{}) {
	defer close(looked)
	changes, err := r.table.lookAgain()
	if err != nil {
		r.o.Log.Error("a socket cannot be opened", "proxy", r.o.ID, "error", err)
	}
	if !changes.Empty() {
		r.local.Apply(changes)
	}
}

// freed has the server send what could not be opened and can be by now.
func (r *relay) freed() {
	if names := r.table.freed(); len(names) > 0 && r.answers.again != nil {
		r.answers.again(translator.Listener, names)
	}
}

// blocked returns a channel for the next look at what is in the way; nil: nothing is.
func (r *relay) blocked() <-chan time.Time {
	if len(r.table.barredPipes) == 0 {
		return nil
	}
	return time.After(pipeEvery)
}
