package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/lkg"
	"github.com/wattle-mesh/wattle/test/smalldisk"
)

// A host whose disk is full: what was kept stays whole, what comes is in force, changes by people are refused, and all is
// written when there is room again.
func TestAFullDiskTakesNothingAwayAndIsSaid(t *testing.T) {
	smalldisk.Run(t, 2<<20, func(t *testing.T, disk smalldisk.Disk) {
		w := newWorld(t)
		w.listen()
		w.policy(oneWorkload)
		state := filepath.Join(disk.Dir, "state")
		token := w.token()
		socket := filepath.Join(w.dir, "run", agentSocket)
		stop := w.start(func(c *configs.Agent) { c.StateDir, c.Token = state, token })
		cert := filepath.Join(state, "certs", trustDomain+"%2Fns%2Fdefault%2Fsvc%2Fweb.pem")
		kept := filepath.Join(state, keptFolder, "host.state")
		w.wait("the certificate and the state on disk", func() error {
			_, a := os.Stat(cert)
			_, b := os.Stat(kept)
			return errors.Join(a, b)
		})
		desk := api.NewClient(api.ClientOptions{Address: "unix:" + socket, Agent: true})
		defer desk.Close()
		before := map[string]string{}
		for _, path := range []string{cert, kept, filepath.Join(state, nodeKeyFile), filepath.Join(state, nodeCertFile), filepath.Join(state, rootsFile)} {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			before[path] = string(text)
		}

		disk.Fill()
		w.policy(strings.Replace(oneWorkload, "  }\n}", "  }\n  service \"api\" { port = 9081 }\n}", 1))
		w.wait("the alarm at the server", func() error {
			if r := w.lastReport(); r == nil || len(r.GetAlarms()) != 1 || r.GetAlarms()[0].GetName() != diskAlarm || !strings.Contains(r.GetAlarms()[0].GetText(), "no space left on device") {
				return fmt.Errorf("%v", r.GetAlarms())
			}
			return nil
		})
		w.wait("the new workload to be served from memory", func() error {
			s, err := desk.Host(t.Context())
			if err != nil || len(s.Certificates) != 3 || s.Certificates[1].NotAfter.IsZero() || len(s.Alarms) != 1 {
				return fmt.Errorf("%v, %w", s, err)
			}
			return nil
		})
		_, err := desk.Register(t.Context(), api.ServiceRequest{Service: service("late", 9099)})
		if e, ok := errors.AsType[*api.Error](err); !ok || e.Status != 507 {
			t.Errorf("a registration: %v", err)
		}
		for path, text := range before {
			if now, err := os.ReadFile(path); err != nil || string(now) != text {
				t.Errorf("%s is not what it was: %v", path, err)
			}
		}
		if n := strings.Count(w.log.String(), "ALARM"); n != 1 {
			t.Errorf("it is logged %d times", n)
		}

		disk.Free()
		w.wait("the alarm to end", func() error {
			if r := w.lastReport(); len(r.GetAlarms()) > 0 {
				return fmt.Errorf("%v", r.GetAlarms())
			}
			return nil
		})
		late := filepath.Join(state, "certs", trustDomain+"%2Fns%2Fdefault%2Fsvc%2Fapi.pem")
		if _, err := os.Stat(late); err != nil {
			t.Errorf("what was owed: %v", err)
		}
		w.wait("the state on disk", func() error {
			if now, err := os.ReadFile(kept); err != nil || string(now) == before[kept] {
				return fmt.Errorf("it is the old one (%w)", err)
			}
			return nil
		})
		stop()
		left, err := filepath.Glob(filepath.Join(state, ".*"))
		if err != nil || len(left) > 0 {
			t.Errorf("left: %q, %v", left, err)
		}
	})
}

const oneWorkload = `
host "h1" {
  address = "ADDR"
  service "web" {
    port = 9080
  }
}
`

func TestTheServerTakesTheNamesOfAllAlarms(t *testing.T) {
	for _, name := range []string{behindAlarm, clockAlarm, diskAlarm, registeredAlarm} {
		if !api.FactName.MatchString(name) {
			t.Errorf("it leaves %q out", name)
		}
	}
}

// What was kept of a proxy that is gone will never be written, and the disk is not full for that.
func TestAProxyThatIsGoneLeavesNoAlarm(t *testing.T) {
	d := newDisk(t.TempDir(), &alarms{log: discard()})
	p := &proxies{log: discard(), disk: d}
	for _, store := range []**lkg.Store{&p.keep, &p.proven, &p.barred} {
		var err error
		if *store, err = lkg.Open(t.TempDir()); err != nil {
			t.Fatal(err)
		}
	}
	raised := func() bool { return len(d.alarms.held.Now()) == 1 }
	d.note(filepath.Join(keptFolder, "gw-public"), syscall.ENOSPC)
	if p.forget([]string{"gw-public", hostProxy}); !raised() {
		t.Error("that of a proxy that is there has ended")
	}
	if p.forget([]string{hostProxy}); raised() {
		t.Error("it goes on")
	}
}

// A token is good for once: it is not spent where its certificate cannot be kept.
func TestOnAFullDiskNoTokenIsSpent(t *testing.T) {
	smalldisk.Run(t, 1<<20, func(t *testing.T, disk smalldisk.Disk) {
		w := newWorld(t)
		w.listen()
		cfg := w.config()
		cfg.StateDir, cfg.Token = filepath.Join(disk.Dir, "state"), w.token()
		a, err := New(Options{Config: cfg, Log: discard()})
		if err != nil {
			t.Fatal(err)
		}
		disk.Fill()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if _, err := a.Join(ctx); err == nil || !strings.Contains(err.Error(), "the token is not spent for nothing") {
			t.Errorf("a full disk: %v", err)
		}
		disk.Free()
		if name, err := a.Join(ctx); err != nil || name != "h1" {
			t.Errorf("with room again: %q, %v", name, err)
		}
	})
}
