package envoys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/internal/admin"
)

// An Upgrade has Envoys go over to the binary that is in a file now, some at a time, by hot restart. After each wave it looks
// whether they are well; if not, all that went over go back. Needs root.
type Upgrade struct {
	Binary string // the file that the Envoys are started from
	From   string // the file to put there first; empty: it is there
	Wave   int    // how many at a time; zero: one
	// Soak is how long a wave is watched before the next.
	Soak time.Duration
	// Reload has a new Envoy take over from the one of a proxy, and returns when it serves. After an error the old one does.
	Reload func(context.Context, Proxy) error
	Look   func(context.Context, Proxy) Health
	Say    func(format string, args ...any)
}

// Health is how an Envoy does.
type Health struct {
	State
	Listeners uint64 // that take connections
	Requests  uint64 // that were answered since it, or the first of those that it replaced, began
	Failed    uint64 // of them: with 5xx
	Path      string // of the binary that the process was started from, as others may open it; empty: not known
}

// ErrWentBack is why an Upgrade ends that was taken back.
var ErrWentBack = errors.New("all went back to the Envoy of before")

const (
	beforeFile  = ".before" // beside the binary: what ran before
	watchEvery  = 250 * time.Millisecond
	fewRequests = 20  // fewer say nothing
	moreFailed  = 0.1 // of all requests: so many more may fail than before
)

// Examine is what Look does: it asks the Envoy itself.
func (p Proxy) Examine(ctx context.Context) Health {
	h := Health{State: p.Look(ctx)}
	if h.PID != 0 {
		h.Path = fmt.Sprintf("/proc/%d/exe", h.PID)
	}
	all, err := admin.New(p.Admin).Stats(ctx, `^(listener_manager\.total_listeners_active|http\..*\.downstream_rq_([2345]xx))$`)
	if err != nil && h.Error == "" {
		h.Error = err.Error()
	}
	for _, s := range all {
		switch {
		case strings.HasPrefix(s.Name, "listener_manager."):
			h.Listeners = s.Value
		case strings.HasPrefix(s.Name, "http.admin."):
		default:
			h.Requests += s.Value
			if strings.HasSuffix(s.Name, "5xx") {
				h.Failed += s.Value
			}
		}
	}
	return h
}

// live reports whether it serves.
func (h Health) live() bool { return h.PID != 0 && strings.HasSuffix(h.State.State, admin.Live) }

// Run upgrades these proxies, in this order. Those that run the binary already stay as they are. It returns how many went over.
// An error that errors.Is ErrWentBack says that all serve as before; another one, that it has not begun, or what could not
// be taken back.
func (u Upgrade) Run(ctx context.Context, all []Proxy) (int, error) {
	before := map[string]Health{}
	for _, p := range all {
		h := u.Look(ctx, p)
		if !h.live() {
			return 0, fmt.Errorf("%s is not well, it is not touched: %s %s", p.Name, h.State.State, h.Error)
		}
		before[p.Name] = h
	}
	var due []Proxy
	for _, p := range all {
		if u.From == "" && same(before[p.Name].Path, u.Binary) {
			u.Say("%s runs %s already", p.Name, u.Binary)
			continue
		}
		due = append(due, p)
	}
	if len(due) == 0 {
		return 0, nil
	}
	if err := u.place(before[due[0].Name].Path); err != nil {
		return 0, err
	}
	var gone []Proxy
	for len(due) > 0 {
		n := min(max(u.Wave, 1), len(due))
		wave := due[:n]
		due = due[n:]
		err := u.wave(ctx, wave, before, &gone)
		if err != nil {
			u.Say("%v", err)
			return 0, errors.Join(err, u.back(context.WithoutCancel(ctx), gone))
		}
	}
	return len(gone), remove(u.Binary + beforeFile)
}

// wave has some go over and watches them. What it adds to gone has another Envoy, or may have.
func (u Upgrade) wave(ctx context.Context, some []Proxy, before map[string]Health, gone *[]Proxy) error {
	begun := map[string]Health{}
	for _, p := range some {
		if err := u.Reload(ctx, p); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		*gone = append(*gone, p)
		h := u.Look(ctx, p)
		if err := well(h, before[p.Name], h); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		begun[p.Name] = h
		u.Say("%s: process %d, version %s; it is watched for %s", p.Name, h.PID, h.Version, u.Soak)
	}
	end := time.After(u.Soak)
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		for _, p := range some {
			if err := well(u.Look(ctx, p), before[p.Name], begun[p.Name]); err != nil {
				return fmt.Errorf("%s: %w", p.Name, err)
			}
		}
		select {
		case <-tick.C:
		case <-end:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// well returns why an Envoy is worse than the one of before. begun is how it was when it took over.
func well(h, before, begun Health) error {
	switch {
	case !h.live():
		return fmt.Errorf("the new Envoy does not serve: %s %s", h.State.State, h.Error)
	case h.PID == before.PID:
		return errors.New("it is the old Envoy yet")
	case h.PID != begun.PID:
		return fmt.Errorf("the new Envoy ended: process %d came after process %d", h.PID, begun.PID)
	case h.Listeners < before.Listeners:
		return fmt.Errorf("the new Envoy has %d listeners, the old one had %d", h.Listeners, before.Listeners)
	}
	if n := h.Requests - begun.Requests; h.Requests > begun.Requests && n >= fewRequests {
		if now, was := float64(h.Failed-begun.Failed)/float64(n), share(before); now > was+moreFailed {
			return fmt.Errorf("%.0f %% of %d requests were answered 5xx, %.0f %% before", 100*now, n, 100*was)
		}
	}
	return nil
}

func share(h Health) float64 {
	if h.Requests == 0 {
		return 0
	}
	return float64(h.Failed) / float64(h.Requests)
}

// place keeps what runs now beside the binary, and puts the new one in its place.
func (u Upgrade) place(runs string) error {
	if runs == "" {
		return errors.New("it is not known which binary runs; run it as root")
	}
	if err := copyFile(runs, u.Binary+beforeFile); err != nil {
		return fmt.Errorf("keep the Envoy that runs: %w", err)
	}
	if u.From == "" {
		return nil
	}
	if err := copyFile(u.From, u.Binary); err != nil {
		return errors.Join(err, remove(u.Binary+beforeFile))
	}
	return nil
}

// back puts the old binary in its place again and has those go back that went over.
func (u Upgrade) back(ctx context.Context, gone []Proxy) error {
	if err := os.Rename(u.Binary+beforeFile, u.Binary); err != nil {
		return fmt.Errorf("the Envoy of before cannot be put back: %w", err)
	}
	var errs []error
	for _, p := range gone {
		if same(u.Look(ctx, p).Path, u.Binary) { // it ended, and was started again after the file was put back
			continue
		}
		if err := u.Reload(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("%s cannot go back: %w", p.Name, err))
			continue
		}
		u.Say("%s is back", p.Name)
	}
	if len(errs) == 0 {
		errs = append(errs, ErrWentBack)
	}
	return errors.Join(errs...)
}

// same reports whether two paths lead to one file.
func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// copyFile puts a program into a place, whole at once.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(to), "."+filepath.Base(to)+"-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	err = errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close())
	if err == nil {
		err = os.Rename(out.Name(), to)
	}
	if err != nil {
		return errors.Join(err, remove(out.Name()))
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
