package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/registry"
)

// watching is a client that watches.
type watching struct {
	t      *testing.T
	events chan CatalogEvent
	end    func()
	ended  chan error
}

func (c *catalogSite) watch(query url.Values) *watching {
	ctx, cancel := context.WithCancel(c.t.Context())
	w := &watching{t: c.t, events: make(chan CatalogEvent), end: cancel, ended: make(chan error, 1)}
	go func() {
		w.ended <- c.client.WatchCatalog(ctx, query, func(e CatalogEvent) error {
			select {
			case w.events <- e:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	c.t.Cleanup(cancel)
	return w
}

func (w *watching) next() string {
	w.t.Helper()
	select {
	case e := <-w.events:
		switch {
		case e.Synced:
			return "synced"
		case e.Gone != nil:
			return "gone " + e.Gone.String()
		}
		out := e.Service.Name.String()
		for _, x := range e.Service.Endpoints {
			out += fmt.Sprintf(" %s:%s", x.Address, x.Health)
			if x.Held != nil {
				out += " held"
			}
		}
		return out
	case err := <-w.ended:
		w.t.Fatal("the watch ended", err)
	case <-time.After(20 * time.Second):
		w.t.Fatal("nothing is said")
	}
	return ""
}

func (w *watching) wants(all ...string) {
	w.t.Helper()
	for _, want := range all {
		if got := w.next(); got != want {
			w.t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestAWatchSaysWhatThereIsAndThenWhatChanges(t *testing.T) {
	web, db := addresses("web", 80, "", "10.9.0.1:80"), addresses("db", 80, "", "10.9.0.2:80")
	c := newCatalogSite(t, of("one", web, db))
	w := c.watch(nil)
	w.wants("default/db 10.9.0.2:healthy", "default/productpage 10.0.0.1:healthy", "default/reviews 10.0.0.1:healthy", "default/web 10.9.0.1:healthy", "synced")
	db = addresses("db", 80, registry.Unhealthy, "10.9.0.2:80")
	c.say(of("one", web, db))
	w.wants("default/db 10.9.0.2:unhealthy")
	c.say(of("one", web))
	w.wants("gone default/db")
	more := addresses("web", 80, "", "10.9.0.1:80", "10.9.0.3:80")
	c.say(of("one", more))
	w.wants("default/web 10.9.0.1:healthy 10.9.0.3:healthy")

	// A hold alone is a change.
	c.holds.mu.Lock()
	c.holds.all = map[string][]registry.Held{"one": {{Service: defaultName("web"), Endpoints: 1}}}
	c.holds.mu.Unlock()
	c.loop.Nudge()
	w.wants("default/web 10.9.0.1:healthy 10.9.0.3:healthy")
	w.end()
	if err := <-w.ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestAWatchIsOfWhatIsAskedFor(t *testing.T) {
	web, db := addresses("web", 80, "", "10.9.0.1:80"), addresses("db", 80, "", "10.9.0.2:80")
	c := newCatalogSite(t, of("one", web, db))
	w := c.watch(url.Values{"namespace": {"default"}, "name": {"web"}})
	nobody := c.watch(url.Values{"name": {"nobody"}})
	prefix := c.watch(url.Values{"prefix": {"d"}})
	w.wants("default/web 10.9.0.1:healthy", "synced")
	nobody.wants("synced")
	prefix.wants("default/db 10.9.0.2:healthy", "synced")
	c.say(of("one", addresses("web", 80, registry.Draining, "10.9.0.1:80"), addresses("db", 80, registry.Draining, "10.9.0.2:80")))
	w.wants("default/web 10.9.0.1:draining")
	prefix.wants("default/db 10.9.0.2:draining")
	for _, q := range []url.Values{{"unhealthy": {"true"}}, {"nmae": {"web"}}} {
		err := c.client.WatchCatalog(t.Context(), q, func(CatalogEvent) error { return nil })
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusBadRequest {
			t.Error(err)
		}
	}
}

// A service that changed is described once, however many watch.
func TestManyWatchersCostOneDescription(t *testing.T) {
	c := newCatalogSite(t, of("one", addresses("web", 80, "", "10.9.0.1:80")))
	h := &handler{o: HTTPOptions{State: c.loop.State, Holds: c.holds}}
	st := c.loop.State()
	described := 0
	for range 10 {
		if _, err := h.lines.of(st, defaultName("web"), func() ([]byte, error) { described++; return []byte("x"), nil }); err != nil {
			t.Fatal(err)
		}
	}
	if described != 1 {
		t.Errorf("described %d times", described)
	}
}

// serve serves a handler with timeouts of a server that are short.
func (c *catalogSite) serve(h *handler) string {
	s := httptest.NewUnstartedServer(http.HandlerFunc(h.watch))
	s.Config.ReadTimeout, s.Config.WriteTimeout = 50*time.Millisecond, 50*time.Millisecond
	s.Start()
	c.t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestAWatchOutlivesTheTimeoutsOfOtherAnswers(t *testing.T) {
	c := newCatalogSite(t, of("one", addresses("web", 80, "", "10.9.0.1:80")))
	address := c.serve(&handler{o: HTTPOptions{State: c.loop.State, Holds: c.holds}, slowest: slowest})
	c.client = NewClient(ClientOptions{Address: address})
	t.Cleanup(c.client.Close)
	w := c.watch(url.Values{"name": {"web"}})
	w.wants("default/web 10.9.0.1:healthy", "synced")
	health := []registry.Health{registry.Unhealthy, registry.Healthy}
	for began, i := time.Now(), 0; time.Since(began) < 200*time.Millisecond; i++ { // four times the timeouts
		c.say(of("one", addresses("web", 80, health[i%2], "10.9.0.1:80")))
		w.wants("default/web 10.9.0.1:" + string(health[i%2]))
	}
}

func TestASlowReaderIsCutOff(t *testing.T) {
	// More than what the kernel keeps of a connection that nobody reads.
	var all []*registry.Service
	meta := map[string]string{"x": strings.Repeat("y", 4000)}
	for i := range 100 {
		s := addresses(fmt.Sprintf("s%02d", i), 80, "")
		for j := range 50 {
			e := *addresses("x", 80, "", fmt.Sprintf("10.9.%d.%d:80", i, j+1)).Endpoints[0]
			e.Meta = registry.LabelsOf(meta)
			s.Endpoints = append(s.Endpoints, &e)
		}
		all = append(all, s)
	}
	c := newCatalogSite(t, of("one", all...))
	h := &handler{o: HTTPOptions{State: c.loop.State, Holds: c.holds}, slowest: 50 * time.Millisecond}
	conn, err := net.Dial("tcp", c.serve(h))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET /v1/catalog/watch HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	limit := time.After(20 * time.Second)
	for began := false; ; { // the server, not this reader, ends it
		n := h.watches.Load()
		if began = began || n > 0; began && n == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("the watch goes on")
		}
	}
}

func TestSoManyMayWatch(t *testing.T) {
	c := newCatalogSite(t)
	h := &handler{o: HTTPOptions{State: c.loop.State, Holds: c.holds}, slowest: slowest}
	h.watches.Store(maxWatches)
	address := c.serve(h)
	c.client = NewClient(ClientOptions{Address: address})
	t.Cleanup(c.client.Close)
	err := c.client.WatchCatalog(t.Context(), nil, func(CatalogEvent) error { return nil })
	if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusServiceUnavailable {
		t.Error(err)
	}
	if n := h.watches.Load(); n != maxWatches {
		t.Errorf("%d watch", n)
	}
}

func TestAWatchEndsWithTheServer(t *testing.T) {
	c := newCatalogSite(t, of("one", addresses("web", 80, "", "10.9.0.1:80")))
	ctx, cancel := context.WithCancel(t.Context())
	l, err := Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- Serve(ctx, l, NewHandler(HTTPOptions{State: c.loop.State, Holds: c.holds}))
	}()
	c.client = NewClient(ClientOptions{Address: l.Addr().String()})
	t.Cleanup(c.client.Close)
	w := c.watch(url.Values{"name": {"web"}})
	w.wants("default/web 10.9.0.1:healthy", "synced")
	cancel()
	if err := <-w.ended; err == nil {
		t.Error("no error")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
