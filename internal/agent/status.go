package agent

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

// teller says in one line how the host is, for systemctl status.
type teller struct {
	node  *value[*credential]
	plan  *value[*planpb.HostPlan]
	certs *value[holdings]
	conn  *grpc.ClientConn
	say   func(string)
}

// run says so whenever it changes, until ctx is done.
func (t *teller) run(ctx context.Context) error {
	said := ""
	for {
		plan, planned := t.plan.Load()
		held, certified := t.certs.Load()
		state := t.conn.GetState()
		if line := line(t.node.Now(), plan, held, state == connectivity.Ready); line != said {
			t.say(line)
			said = line
		}
		wait, cancel := context.WithCancel(ctx)
		moved := make(chan struct{})
		go func() {
			t.conn.WaitForStateChange(wait, state)
			close(moved)
		}()
		select {
		case <-planned:
		case <-certified:
		case <-moved:
		}
		cancel()
		<-moved
		if ctx.Err() != nil {
			return nil
		}
	}
}

// line is how a host is that has joined.
func line(node *credential, plan *planpb.HostPlan, held holdings, connected bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, "host %s of %s: ", node.id.Name, node.id.TrustDomain)
	switch {
	case plan == nil:
		b.WriteString("it waits for its plan")
	case len(plan.GetProxies()) == 0:
		b.WriteString("no workloads, no proxies")
	default:
		fmt.Fprintf(&b, "%s, %s", count(len(plan.GetWorkloads()), "workload"), plural(len(plan.GetProxies()), "proxy", "proxies"))
	}
	waiting := 0
	for id := range identities(plan) {
		if held[id].leaf == nil {
			waiting++
		}
	}
	if waiting > 0 {
		fmt.Fprintf(&b, ", %s missing yet", count(waiting, "certificate"))
	}
	if plan.GetDraining() {
		b.WriteString(", DRAINS for maintenance")
	}
	if connected {
		b.WriteString("; a server is connected")
	} else {
		b.WriteString("; NO SERVER is reached, what was kept is in force")
	}
	return b.String()
}

func count(n int, what string) string { return plural(n, what, what+"s") }

func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, more)
}
