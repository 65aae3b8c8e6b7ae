package agent

import (
	"fmt"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

func in(namespace string) func(*configs.Service) {
	return func(s *configs.Service) { s.Namespace = namespace }
}

func TestTheUserOfAUnitRegistersOnlyWhatRootLetsTheUnitBe(t *testing.T) {
	const web, mallory = 1000, 1001
	units := fakeUnits{"web.service": web, "web@1.service": web, "job@7.service": web, "shop.service": web, "none.service": web, "user@1001.service": mallory, "cron.service": mallory}
	grants := append(grantsOf("shop.service", "shop/*", "job@.service", "default/job"), &configs.UnitGrant{Unit: "none.service"})
	for _, c := range []struct {
		name string
		uid  uint32
		s    *configs.Service
		says string // empty: it may
	}{
		{"the service of the unit's name", web, service("web", 80, unit("web.service")), ""},
		{"another instance of it", web, service("web", 80, unit("web.service"), func(s *configs.Service) { s.Instance = "2" }), ""},
		{"that name in another namespace", web, service("web", 80, in("pay"), unit("web.service")), `uid 1000 may not register pay/web for unit web.service: it may be the service of its name only; have root write unit "web.service" { services = ["pay/web"] } into agent.hcl`},
		{"another service", web, service("payments", 80, unit("web.service")), "may not register default/payments for unit web.service"},
		{"an instance of a template by its template's name", web, service("web", 80, unit("web@1.service")), "may not register default/web for unit web@1.service"},
		{"an instance of a template that is listed", web, service("job", 80, unit("job@7.service")), ""},
		{"what is listed", web, service("cart", 80, in("shop"), unit("shop.service")), ""},
		{"the unit's name beside a list without it", web, service("shop", 80, unit("shop.service")), `the unit block of agent.hcl does not list it; have root add "default/shop" to the block of unit "shop.service"`},
		{"a unit that may be nothing", web, service("none", 80, unit("none.service")), "does not list it"},
		{"an attacker with the unit of every login", mallory, service("payments", 80, unit("user@1001.service")), "may not register default/payments for unit user@1001.service"},
		{"whose service has that unit's name", mallory, service("user", 80, unit("user@1001.service")), "may not register default/user"},
		{"an attacker with another unit of theirs", mallory, service("web", 80, unit("cron.service")), "may not register default/web for unit cron.service"},
		{"an attacker with somebody else's unit", mallory, service("web", 80, unit("web.service")), "unit web.service runs as uid 1000"},
		{"an attacker without a unit", mallory, service("web", 80), "belong to no unit"},
		{"root", 0, service("payments", 80, unit("user@1001.service")), ""},
		{"the agent's user", 500, service("payments", 80), ""},
	} {
		d := deskAt(t, t.TempDir())
		d.units, d.grants = units, grants
		_, err := d.register(t.Context(), client{c.uid}, c.s)
		if c.says == "" && err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if c.says != "" {
			wantFault(t, c.name, err, 403, api.CodeUser, c.says)
			if d.reported() != "" {
				t.Errorf("%s: reported is %q", c.name, d.reported())
			}
		}
	}
}

func TestAGrantThatRootTookBackEndsWhatWasRegisteredByIt(t *testing.T) {
	dir := t.TempDir()
	d := deskAt(t, dir)
	for i, by := range []uint32{1000, 1000, 0} {
		if _, err := d.register(t.Context(), client{by}, service(fmt.Sprintf("s%d", i), uint16(80+i), unit("web.service"))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.register(t.Context(), client{0}, service("s1", 90, unit("web.service"))); err != nil { // it is root's word now
		t.Fatal(err)
	}
	files := new(value[*registrations])
	files.Set(new(registrations))
	next, err := newDesk(deskOptions{log: discard(), disk: newDisk(dir, &alarms{log: discard()}), units: d.units, grants: grantsOf("web.service", "default/other"), files: files, drains: d.drains})
	if err != nil {
		t.Fatal(err)
	}
	next.mu.Lock()
	next.refresh(next.own[workload{"default", "s0", ""}].Registered)
	next.mu.Unlock()
	if got := next.reported(); got != "s1 s2" {
		t.Errorf("reported is %q", got)
	}
	if st := next.list()[0]; st.State != api.StateRefused || st.Reason == "" {
		t.Errorf("%+v", st)
	}
	// Its port is free, and root may have it count again.
	if _, err := next.register(t.Context(), client{0}, service("s3", 80)); err != nil {
		t.Error(err)
	}
	if got, err := next.register(t.Context(), client{0}, service("s0", 83, unit("web.service"))); err != nil || !got.Changed || got.State == api.StateRefused {
		t.Errorf("%+v, %v", got, err)
	}
}
