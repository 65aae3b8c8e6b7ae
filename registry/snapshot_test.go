package registry

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// served is one life of a server with the registry consul. It is given what a test does in it.
func served(t *testing.T, dir string, f *fake, live func(*Aggregator)) {
	t.Helper()
	servedAs(t, dir, Entry{Name: "consul", Type: "consul", Source: f, Hold: DefaultHold(), Snapshot: true, Choice: "1"}, live)
}

func servedAs(t *testing.T, dir string, e Entry, live func(*Aggregator)) {
	t.Helper()
	a := NewAggregator(Options{Log: discard, Snapshots: dir, Alive: func(Name, *Endpoint) bool { return true }})
	configure(t, a, e)
	end := start(t, a)
	live(a)
	end()
}

func isReady(a *Aggregator) bool {
	synctest.Wait()
	select {
	case <-a.Ready():
		return true
	default:
		return false
	}
}

// everything returns services with all that an endpoint can have.
func everything() []*Service {
	e := inside("a", "h1", "10.0.0.7", "i1")
	e.Workload.Checks = []Check{{Type: "http", Port: 80, Path: "/", Interval: 5 * time.Second, Timeout: 2 * time.Second, Healthy: 1, Unhealthy: 2}}
	e.Workload.Upstreams = []Upstream{{Service: Name{"default", "b"}, Socket: "/run/x"}}
	e.Meta, e.Priority, e.Weight, e.Health, e.Reason = LabelsOf(map[string]string{"v": "1\u2028<"}), 3, 7, Unhealthy, "no"
	e.Locality = Locality{"eu", "eu-1", "r1"}
	a := service("a", outside("10.0.0.1"), e)
	a.Origin, a.Ports[0].Name = "x.hcl:3", "web"
	return []*Service{a, of("b", 1, 4)}
}

func TestARestartedServerBeginsWithTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "registries")
		f := newFake()
		var said time.Time
		served(t, dir, f, func(a *Aggregator) {
			f.publish <- everything()
			said = time.Now()
			<-time.After(time.Minute)
		})
		for _, file := range files(t, dir) {
			if info, err := os.Stat(filepath.Join(dir, file)); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", file, info.Mode(), err)
			}
		}
		<-time.After(time.Hour)
		served(t, dir, f, func(a *Aggregator) {
			if isReady(a) {
				t.Error("the mesh does not wait for a registry that may still answer")
			}
			if d := cmp.Diff(everything(), a.Sets()[0].Services, plain); d != "" {
				t.Error(d)
			}
			f.fail <- errors.New("connection refused")
			if !isReady(a) {
				t.Error("the mesh waits for a registry that is down, though there is a snapshot")
			}
			s := a.Status()[0]
			if s.State != FromSnapshot || !s.Snapshot.Equal(said) || !s.LastPublish.Equal(said) || s.Synced || s.Endpoints != 6 {
				t.Errorf("status %+v", s)
			}
			if got := codesOf(s.Diagnostics); !slices.Equal(got, []string{sourceFailed, fromSnapshot}) || !strings.Contains(s.Diagnostics[1].Summary, said.UTC().Format(time.RFC3339)) {
				t.Errorf("diagnostics %v", texts(s.Diagnostics))
			}
			<-time.After(time.Second)
			f.publish <- everything()
			synctest.Wait()
			if s := a.Status()[0]; s.State != Synced || len(s.Diagnostics) > 0 || !s.Snapshot.IsZero() {
				t.Errorf("it has spoken, status %+v", s)
			}
		})
	})
}

func TestASnapshotWaitsForTheSyncTimeoutOfASilentSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, f := t.TempDir(), newFake()
		served(t, dir, f, func(*Aggregator) { f.publish <- everything() })
		served(t, dir, f, func(a *Aggregator) {
			<-time.After(DefaultSyncTimeout + time.Millisecond)
			if !isReady(a) {
				t.Error("not ready")
			}
			if got := codesOf(a.Status()[0].Diagnostics); !slices.Equal(got, []string{sourceLate, fromSnapshot}) {
				t.Errorf("diagnostics %v", got)
			}
		})
	})
}

func TestARegistryThatIsWipedWhileTheServerRestartsIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, f := t.TempDir(), newFake()
		var since time.Time
		served(t, dir, f, func(a *Aggregator) { f.publish <- []*Service{of("a", 1, 4), of("b", 5, 6)} })
		served(t, dir, f, func(a *Aggregator) {
			f.publish <- []*Service{of("a", 1, 1)}
			synctest.Wait()
			since = time.Now()
			if n := a.Status()[0].Endpoints; n != 6 {
				t.Errorf("%d endpoints", n)
			}
			<-time.After(time.Minute)
		})
		// Another restart prolongs nothing.
		served(t, dir, f, func(a *Aggregator) {
			f.publish <- []*Service{of("a", 1, 1)}
			synctest.Wait()
			s := a.Status()[0]
			if s.Endpoints != 6 || len(s.Held) != 2 || !s.Held[0].Since.Equal(since) || !s.Held[0].Until.Equal(since.Add(10*time.Minute)) {
				t.Errorf("status %+v", s)
			}
			if n, _ := a.Accept("consul"); n != 5 {
				t.Errorf("%d accepted", n)
			}
		})
		// What was accepted does not come back.
		served(t, dir, f, func(a *Aggregator) {
			if n := a.Status()[0].Endpoints; n != 1 {
				t.Errorf("%d endpoints", n)
			}
		})
	})
}

func TestOfDamagedSnapshotsTheOtherOneIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fill := func() (dir string) {
			dir = t.TempDir()
			f := newFake()
			served(t, dir, f, func(*Aggregator) {
				f.publish <- []*Service{of("old", 1, 4)}
				<-time.After(time.Minute)
				f.publish <- []*Service{of("new", 1, 4), of("old", 1, 4)}
				<-time.After(time.Minute)
			})
			if got := files(t, dir); !slices.Equal(got, []string{"consul.0.snapshot", "consul.1.snapshot"}) {
				t.Fatalf("files %v", got)
			}
			return dir
		}
		newer, older := "consul.0.snapshot", "consul.1.snapshot" // the second one and the first one
		for _, c := range []struct {
			name  string
			spoil func(dir string)
			want  string
			code  []string
		}{
			{"nothing", func(string) {}, "new old", []string{fromSnapshot}},
			{"the newer one is cut short", func(dir string) { truncate(t, dir, newer) }, "old", []string{fromSnapshot, snapshotDamaged}},
			{"the newer one is empty", func(dir string) { write(t, dir, newer, nil) }, "old", []string{fromSnapshot, snapshotDamaged}},
			{"a bit of the newer one turned", func(dir string) { flip(t, dir, newer) }, "old", []string{fromSnapshot, snapshotDamaged}},
			{"the newer one was not written", func(dir string) { remove(t, dir, newer) }, "old", []string{fromSnapshot}},
			{"a bit of the older one turned", func(dir string) { flip(t, dir, older) }, "new old", []string{fromSnapshot, snapshotDamaged}},
			{"both are damaged", func(dir string) { flip(t, dir, newer); truncate(t, dir, older) }, "", []string{snapshotDamaged}},
			{"both are of another version", func(dir string) {
				for _, f := range []string{newer, older} {
					write(t, dir, f, []byte("wattle-registry-snapshot 9 x\n{}"))
				}
			}, "", []string{snapshotDamaged}},
			{"both are gone", func(dir string) { remove(t, dir, newer); remove(t, dir, older) }, "", nil},
		} {
			dir := fill()
			c.spoil(dir)
			f := newFake()
			served(t, dir, f, func(a *Aggregator) {
				if got := strings.Join(names(a.Sets()[0].Services), " "); got != c.want {
					t.Errorf("%s: %q is served, want %q", c.name, got, c.want)
				}
				if got := codesOf(a.Status()[0].Diagnostics); !slices.Equal(got, c.code) {
					t.Errorf("%s: diagnostics %v, want %v", c.name, got, c.code)
				}
				f.publish <- []*Service{of("next", 1, 4)}
				<-time.After(time.Minute)
				if got := codesOf(a.Status()[0].Diagnostics); slices.Contains(got, snapshotDamaged) {
					t.Errorf("%s: there are new ones, and still %v", c.name, got)
				}
			})
			served(t, dir, newFake(), func(a *Aggregator) {
				if got := names(a.Sets()[0].Services); !slices.Contains(got, "next") {
					t.Errorf("%s: the next life has %q", c.name, got)
				}
			})
		}
	})
}

func TestSnapshotsFollowTheConfiguration(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, f := t.TempDir(), newFake()
		served(t, dir, f, func(*Aggregator) { f.publish <- []*Service{of("a", 1, 4)} })
		entry := func(change func(*Entry)) Entry {
			e := Entry{Name: "consul", Type: "consul", Source: f, Hold: DefaultHold(), Snapshot: true, Choice: "1"}
			change(&e)
			return e
		}
		servedAs(t, dir, entry(func(e *Entry) { e.Choice = "2" }), func(a *Aggregator) {
			if n := a.Status()[0].Endpoints; n != 4 {
				t.Errorf("%d endpoints of a block that was changed", n)
			}
			f.publish <- nil // an operator's act
			synctest.Wait()
			if n := a.Status()[0].Endpoints; n != 0 {
				t.Errorf("%d endpoints are held that an operator's change took away", n)
			}
			f.publish <- []*Service{of("a", 1, 4)}
		})
		servedAs(t, dir, entry(func(e *Entry) { e.Type = "dns" }), func(a *Aggregator) {
			if n := a.Status()[0].Endpoints; n != 0 {
				t.Errorf("%d endpoints of another kind of registry", n)
			}
		})
		served(t, dir, f, func(a *Aggregator) {
			configure(t, a)
			if got := files(t, dir); !slices.Equal(got, []string{"consul.0.snapshot.removed", "consul.1.snapshot.removed"}) {
				t.Errorf("%v is left of a registry that was removed", got)
			}
			configure(t, a, entry(func(*Entry) {})) // the block is back, and the registry says nothing
			if s := a.Status()[0]; s.Endpoints != 4 || s.Snapshot.IsZero() {
				t.Errorf("it begins with %+v", s)
			}
			configure(t, a)
			<-time.After(keepRemoved + 2*sweepEvery)
			synctest.Wait()
			if got := files(t, dir); len(got) > 0 {
				t.Errorf("%v is left of a registry that was removed a day ago", got)
			}
		})
		served(t, dir, f, func(*Aggregator) { f.publish <- []*Service{of("a", 1, 4)} })
		write(t, dir, "notes.txt", nil)
		servedAs(t, dir, entry(func(e *Entry) { e.Name = "other" }), func(a *Aggregator) {
			if got := files(t, dir); !slices.Equal(got, []string{"consul.1.snapshot.removed", "notes.txt"}) {
				t.Errorf("%v is left of a registry that was removed while the server was down", got)
			}
		})
	})
}

func TestASnapshotThatCannotBeWrittenIsSaidAndTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "registries")
		write(t, filepath.Dir(dir), "registries", nil) // a file
		f := newFake()
		served(t, dir, f, func(a *Aggregator) {
			f.publish <- everything()
			<-time.After(2 * time.Second)
			if got := codesOf(a.Status()[0].Diagnostics); !slices.Equal(got, []string{snapshotUnwritten}) {
				t.Errorf("diagnostics %v", got)
			}
			remove(t, filepath.Dir(dir), "registries")
			<-time.After(time.Minute)
			if got := codesOf(a.Status()[0].Diagnostics); len(got) > 0 || len(files(t, dir)) != 1 {
				t.Errorf("diagnostics %v, files %v", got, files(t, dir))
			}
		})
	})
}

func TestSnapshotsAreWrittenSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir, f := t.TempDir(), newFake()
		served(t, dir, f, func(a *Aggregator) {
			for i := range 100 {
				f.publish <- []*Service{of("a", 1, 1+i%9)}
				<-time.After(100 * time.Millisecond)
			}
			<-time.After(time.Minute)
			text, err := os.ReadFile(filepath.Join(dir, "consul.0.snapshot"))
			if err != nil {
				t.Fatal(err)
			}
			if s, err := decodeSnapshot(text); err != nil || s.Sequence > 11 {
				t.Errorf("%d were written within 10 s, %v", s.Sequence, err)
			}
		})
	})
}

func FuzzSnapshot(f *testing.F) {
	text, err := (&snapshot{Name: "x", Services: everything(), Held: []heldPlace{{Service: 1, Endpoint: 2}}}).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(snapshotMagic))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := decodeSnapshot(text)
		if (s == nil) != errors.Is(err, errDamaged) {
			t.Errorf("%v, %v", s, err)
		}
	})
}

func codesOf(ds []Diagnostic) []string {
	var out []string
	for _, d := range ds {
		out = append(out, d.Code)
	}
	return out
}

func files(t *testing.T, dir string) []string {
	t.Helper()
	all, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, f := range all {
		out = append(out, f.Name())
	}
	return out
}

func write(t *testing.T, dir, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Remove(filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, dir, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func truncate(t *testing.T, dir, name string) {
	text := read(t, dir, name)
	write(t, dir, name, text[:len(text)/2])
}

func flip(t *testing.T, dir, name string) {
	text := read(t, dir, name)
	text[len(text)/2] ^= 1
	write(t, dir, name, text)
}

// decodeSnapshot reads a file's content.
func decodeSnapshot(text []byte) (*snapshot, error) {
	s, err := unseal(text)
	if err != nil {
		return nil, err
	}
	return s.open()
}
