package agent

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

// A real agent is told of a workload through its socket, before it has joined even, hears of the server's refusal, and knows
// both after a restart. Run by somebody who is not root, that user is the agent's, who may too.
func TestWhatIsRegisteredThroughTheSocketIsReportedAndOutlivesTheAgent(t *testing.T) {
	w := newWorld(t)
	c := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(w.dir, "run", agentSocket), Agent: true})
	defer c.Close()
	request := api.ServiceRequest{Service: service("web", 9070, func(s *configs.Service) { s.TTL = configs.Duration(time.Hour) })}
	token := w.token() // of a server that does not answer yet
	stop := w.start(func(c *configs.Agent) { c.Token = token })
	w.wait("the agent to register", func() error {
		got, err := c.Register(t.Context(), request)
		if err == nil && got.State != api.StatePending {
			err = fmt.Errorf("%+v", got)
		}
		return err
	})

	w.objects = []*apipb.Refusal{{Namespace: "default", Service: "web", Reason: "node h1 was not granted service default/web"}}
	w.listen()
	w.policy(`host "h1" { address = "ADDR" }`)
	refused := func() error {
		request.Wait = configs.Duration(api.MaxWait)
		got, err := c.Register(t.Context(), request)
		if err == nil && (got.State != api.StateRefused || !strings.Contains(got.Reason, "not granted") || got.Changed) {
			err = fmt.Errorf("%+v", got)
		}
		return err
	}
	w.wait("the refusal", refused)
	reported := func() error {
		r := w.lastReport()
		if n := len(r.GetRegistrations()); n != 1 || r.GetRegistrations()[0].GetService() != "web" {
			return fmt.Errorf("the last report is %v", r)
		}
		return nil
	}
	w.wait("the report", reported)
	stop()
	w.mu.Lock()
	w.reports = nil
	w.mu.Unlock()
	w.start(nil)
	w.wait("the report of the next agent", reported)
	w.wait("the refusal of the next agent", refused)
	for _, r := range w.reports {
		if len(r.GetRegistrations()) != 1 {
			t.Errorf("the next agent reported %v", r)
		}
	}
	if got, err := c.Deregister(t.Context(), api.ServiceRef{Namespace: "default", Name: "web"}); err != nil || !got.Changed {
		t.Errorf("%+v, %v", got, err)
	}
	w.wait("a report without it", func() error {
		if r := w.lastReport(); len(r.GetRegistrations()) != 0 {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
}

func TestAWorkloadWithoutHeartbeatsIsReportedUnhealthy(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	w.join()
	c := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(w.dir, "run", agentSocket), Agent: true})
	defer c.Close()
	api1 := service("api", 9080, func(s *configs.Service) { s.TTL = configs.Duration(time.Second) })
	w.wait("the registration", func() error { _, err := c.Register(t.Context(), api.ServiceRequest{Service: api1}); return err })
	health := func(reason string) func() error {
		return func() error {
			for _, h := range w.lastReport().GetHealth() {
				if h.GetService() == "api" && h.GetReason() == reason {
					return nil
				}
			}
			return fmt.Errorf("%v", w.lastReport().GetHealth())
		}
	}
	w.wait("the silence to be reported", health("no heartbeat for 1s (ttl 1s)"))
	w.wait("a heartbeat to be reported", func() error {
		if _, err := c.Heartbeat(t.Context(), api.ServiceRef{Namespace: "default", Name: "api"}); err != nil {
			return err
		}
		return health("")()
	})
}
