package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

func from(line string) func(*configs.Service) {
	return func(s *configs.Service) { s.Origin = "f.hcl:" + line }
}

func TestAFileIsRegisteredAsAWholeOrNotAtAll(t *testing.T) {
	for name, c := range map[string]struct {
		bad  *configs.Service
		code string
		says string
	}{
		"a service that the unit may not be": {service("pay", 81, from("9"), unit("cron.service")), api.CodeUser, "f.hcl:9: service default/pay: uid 1000 may not register"},
		"another's port":                     {service("pay", 8080, from("9"), unit("web.service")), api.CodeTaken, "f.hcl:9: service default/pay: 127.0.0.1:8080 is taken by default/taken"},
		"a port of the same file":            {service("pay", 80, from("9"), unit("web.service")), api.CodeTaken, "service default/web: 127.0.0.1:80 is taken by default/pay"},
		"another user's":                     {service("theirs", 82, from("9"), unit("web.service")), api.CodeOwner, "f.hcl:9: service default/theirs: uid 1000 may not"},
	} {
		dir := t.TempDir()
		d := deskAt(t, dir)
		d.units = fakeUnits{"web.service": 1000, "cron.service": 1000}
		for i, s := range []*configs.Service{service("taken", 8080), service("theirs", 8081)} {
			if _, err := d.register(t.Context(), client{0}, s); err != nil {
				t.Fatal(i, err)
			}
		}
		before, err := os.ReadFile(filepath.Join(dir, registeredFile))
		if err != nil {
			t.Fatal(err)
		}
		_, err = d.enroll(t.Context(), client{1000}, []*configs.Service{service("web", 80, from("1"), unit("web.service")), c.bad}, api.Run{})
		wantFault(t, name, err, map[string]int{api.CodeTaken: 409}[c.code]+map[bool]int{true: 403}[c.code != api.CodeTaken], c.code, c.says)
		if after, err := os.ReadFile(filepath.Join(dir, registeredFile)); err != nil || string(after) != string(before) || d.reported() != "taken theirs" {
			t.Errorf("%s: reported is %q, %v", name, d.reported(), err)
		}
	}
	// Two may change places, which one after the other could not.
	d := deskAt(t, t.TempDir())
	for _, ports := range [][2]uint16{{80, 81}, {81, 80}} {
		got, err := d.enroll(t.Context(), client{0}, []*configs.Service{service("a", ports[0]), service("b", ports[1])}, api.Run{})
		if err != nil || len(got) != 2 || !got[0].Changed || !got[1].Changed {
			t.Errorf("%v: %+v, %v", ports, got, err)
		}
	}
}

func TestTheEndOfAnEarlierRunDoesNotEndALaterOne(t *testing.T) {
	dir := t.TempDir()
	d := deskAt(t, dir)
	web := workload{"default", "web", ""}
	lease := func(s *configs.Service) { s.TTL = configs.Duration(time.Hour) }
	register := func(run api.Run, change ...func(*configs.Service)) api.ServiceAnswer {
		t.Helper()
		all, err := d.enroll(t.Context(), client{0}, []*configs.Service{service("web", 80, append(change, lease)...)}, run)
		if err != nil {
			t.Fatal(err)
		}
		return all[0]
	}
	leave := func(run string) bool {
		t.Helper()
		got, err := d.deregister(client{0}, web, run)
		if err != nil {
			t.Fatal(err)
		}
		return got.Changed
	}
	register(api.Run{ID: "old"})
	if got := register(api.Run{ID: "new"}); got.Changed { // it says the same, and is the later run's
		t.Errorf("%+v", got)
	}
	heard := d.heard[web]
	if got := register(api.Run{ID: "old", Renew: true}); got.Changed || d.heard[web] != heard {
		t.Errorf("the earlier run's life counts as the later one's: %+v", got)
	}
	d = deskAt(t, dir) // whose it is outlives the agent
	if leave("old") || d.reported() != "web" {
		t.Error("the end of the earlier run ends the later one")
	}
	if !leave("new") || d.reported() != "" {
		t.Error("the later run does not end it")
	}
	if got := register(api.Run{ID: "old", Renew: true}); !got.Changed || !leave("old") {
		t.Errorf("a run that still lives is not registered again: %+v", got)
	}
	// What a command says anew is no run's to end, and a run that lives keeps it alive.
	register(api.Run{ID: "old"})
	register(api.Run{}, func(s *configs.Service) { s.Meta = map[string]string{"a": "b"} })
	d.heard[web] = time.Time{}
	if got := register(api.Run{ID: "old", Renew: true}); got.Changed || got.Service.Meta["a"] != "b" || d.heard[web].IsZero() {
		t.Errorf("%+v", got)
	}
	if leave("old") || !leave("") {
		t.Error("a run ends what a command registered, or the command cannot")
	}
}

func TestARunDoesNotBringBackWhatWasDeregistered(t *testing.T) {
	dir := t.TempDir()
	d := deskAt(t, dir)
	web := workload{"default", "web", ""}
	register := func(run api.Run) []api.ServiceAnswer {
		t.Helper()
		all, err := d.enroll(t.Context(), client{0}, []*configs.Service{service("web", 80), service("admin", 81)}, run)
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	leave := func(key workload, run string) {
		t.Helper()
		if got, err := d.deregister(client{0}, key, run); err != nil || !got.Changed {
			t.Fatalf("%+v, %v", got, err)
		}
	}
	register(api.Run{ID: "a"})
	leave(web, "")
	for range 2 { // also of an agent that was restarted
		got := register(api.Run{ID: "a", Renew: true})
		if got[0].State != api.StateDeregistered || got[0].Changed || !strings.Contains(got[0].Reason, "wattle service register") || got[1].State == api.StateDeregistered || d.reported() != "admin" {
			t.Errorf("%s: %+v", d.reported(), got)
		}
		d = deskAt(t, dir)
	}
	// Who registers it the first time has it, and renews it when it is gone otherwise.
	register(api.Run{ID: "b"})
	leave(web, "b")
	if got := register(api.Run{ID: "b", Renew: true}); !got[0].Changed || d.reported() != "admin web" {
		t.Errorf("%s: %+v", d.reported(), got)
	}
	d = deskAt(t, t.TempDir()) // it has lost everything
	if got := register(api.Run{ID: "b", Renew: true}); !got[0].Changed || !got[1].Changed {
		t.Errorf("%+v", got)
	}
	// A damaged file forgets, and the agent starts.
	leave(web, "")
	if err := os.WriteFile(filepath.Join(d.disk.dir, endedFile), []byte("["), 0o600); err != nil {
		t.Fatal(err)
	}
	d = deskAt(t, d.disk.dir)
	if got := register(api.Run{ID: "b", Renew: true}); !got[0].Changed {
		t.Errorf("%+v", got)
	}
}
