package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/registry"
)

const (
	// maxWatches bounds how many watch at once.
	maxWatches = 256

	// writeChunk is how much of a watch is gathered before it is sent.
	writeChunk = 64 << 10 // bytes

	// slowest is how long a reader may take for a chunk before it is cut off.
	slowest = 10 * time.Second
)

// CatalogEvent is one line of GET /v1/catalog/watch. One of its fields is set.
type CatalogEvent struct {
	Service *DescribedService `json:"service,omitempty"` // as it is now
	Gone    *registry.Name    `json:"gone,omitempty"`
	Synced  bool              `json:"synced,omitempty"` // all that there was when the watch began has been said
}

// lines keeps what watchers are told of the services that changed in one step, so that each is described once for all of
// them. The zero value is ready.
type lines struct {
	mu   sync.Mutex
	step *pipeline.Step
	text map[registry.Name][]byte
}

// of returns the line of a service.
func (l *lines) of(st *pipeline.State, n registry.Name, describe func() ([]byte, error)) ([]byte, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.step != st.Step {
		l.step, l.text = st.Step, map[registry.Name][]byte{}
	}
	if text, ok := l.text[n]; ok {
		return text, nil
	}
	text, err := describe()
	if err == nil {
		l.text[n] = text
	}
	return text, err
}

func (h *handler) line(st *pipeline.State, n registry.Name) ([]byte, error) {
	event := CatalogEvent{Service: h.described(st, n)}
	if event.Service == nil {
		event.Gone = &n
	}
	return json.Marshal(event)
}

// watch streams the services that a filter picks, and then each again when it changes.
func (h *handler) watch(w http.ResponseWriter, r *http.Request) {
	f, err := filterOf(r, "namespace", "prefix", "name")
	if err == nil {
		_, err = h.inForce()
	}
	if err != nil {
		h.answer(w, r, nil, err)
		return
	}
	if h.watches.Add(1) > maxWatches {
		h.watches.Add(-1)
		fail(w, &Error{http.StatusServiceUnavailable, fmt.Sprintf("%d others watch already", maxWatches), "end some of them", ""})
		return
	}
	defer h.watches.Add(-1)
	out := &stream{w: w, c: http.NewResponseController(w), slowest: h.slowest}
	if err := out.c.SetReadDeadline(time.Time{}); err != nil { // the request was read; the server's limit would end the stream
		h.answer(w, r, nil, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	x := watcher{h: h, f: f, out: out}
	if x.begin() != nil {
		return // the reader is gone or too slow; it is not told what it missed
	}
	for {
		select {
		case <-r.Context().Done():
			return
		case <-x.step.Done():
		}
		if x.follow() != nil {
			return
		}
	}
}

// watcher is one who watches. What it has yet to say is the steps after its own: it gathers nothing itself.
type watcher struct {
	h     *handler
	f     filter
	out   *stream
	step  *pipeline.Step
	holds map[string][]registry.Held
}

// begin says all there is.
func (x *watcher) begin() error {
	st := x.h.o.State()
	x.step, x.holds = st.Step, x.h.o.Holds.Holds()
	for s := range st.Catalog.All() {
		if !x.f.names(s.Name) {
			continue
		}
		text, err := x.h.line(st, s.Name) // not kept: all of them would be too much
		if err == nil {
			err = x.out.line(text)
		}
		if err != nil {
			return err
		}
	}
	text, err := json.Marshal(CatalogEvent{Synced: true})
	return errors.Join(err, x.out.line(text), x.out.flush())
}

// follow says what the steps after the last one changed.
func (x *watcher) follow() error {
	names := map[registry.Name]bool{}
	for next := x.step.Next(); next != nil; next = x.step.Next() {
		x.step = next
		for _, n := range next.Services {
			names[n] = true
		}
	}
	holds := x.h.o.Holds.Holds()
	for _, n := range changedHolds(x.holds, holds) {
		names[n] = true
	}
	x.holds = holds
	st := x.h.o.State()
	for _, n := range slices.SortedFunc(maps.Keys(names), registry.Name.Compare) {
		if !x.f.names(n) {
			continue
		}
		text, err := x.h.lines.of(st, n, func() ([]byte, error) { return x.h.line(st, n) })
		if err == nil {
			err = x.out.line(text)
		}
		if err != nil {
			return err
		}
	}
	return x.out.flush()
}

// stream writes lines in chunks. A reader that does not take one in time is an error.
type stream struct {
	w       http.ResponseWriter
	c       *http.ResponseController
	slowest time.Duration
	buf     []byte
}

func (s *stream) line(text []byte) error {
	s.buf = append(append(s.buf, text...), '\n')
	if len(s.buf) < writeChunk {
		return nil
	}
	return s.flush()
}

func (s *stream) flush() error {
	if len(s.buf) == 0 {
		return nil
	}
	if err := s.c.SetWriteDeadline(time.Now().Add(s.slowest)); err != nil {
		return err
	}
	_, err := s.w.Write(s.buf)
	if s.buf = s.buf[:0]; cap(s.buf) > 2*writeChunk {
		s.buf = nil
	}
	return errors.Join(err, s.c.Flush())
}
