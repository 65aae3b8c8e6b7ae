package translator_test

import (
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/registry"
	"github.com/wattle-mesh/wattle/translator"
)

// TestNothingInvalidComesOut gives the translator values that its input's types allow but Envoy does not: what configs
// let through by mistake must fail here and not at the proxies.
func TestNothingInvalidComesOut(t *testing.T) {
	rule := func(p configs.TrafficPolicy) func(*world) {
		return func(w *world) {
			r := &configs.DestinationRule{Block: configs.Block{Namespace: "default", Name: "web", Origin: "rules.hcl:7"}, Host: configs.ServiceRef(webName), Traffic: p}
			w.rules[webName] = r
		}
	}
	for what, c := range map[string]struct {
		change func(*world)
		want   []string // in the error
	}{
		"a share of more than 100 %": {
			rule(configs.TrafficPolicy{OutlierDetection: &configs.OutlierDetection{MaxEjectionPercent: new(uint32(101))}}),
			[]string{"cluster web.default:80", "rules.hcl:7", "MaxEjectionPercent"},
		},
		"a negative duration": {
			rule(configs.TrafficPolicy{ConnectionPool: &configs.ConnectionPool{TCP: &configs.TCPPool{ConnectTimeout: new(configs.Duration(-time.Second))}}}),
			[]string{"cluster web.default:80", "rules.hcl:7", "ConnectTimeout"},
		},
		"an extension's value that is too large": {
			rule(configs.TrafficPolicy{LoadBalancer: &configs.LoadBalancer{ConsistentHash: &configs.ConsistentHash{UseSourceIP: true, MinimumRingSize: 1 << 40}}}),
			[]string{"cluster web.default:80", "rules.hcl:7", "MinimumRingSize"},
		},
		"a status that is none, in a filter's settings for a route": {
			func(w *world) {
				vs := largeVirtualService(webName, "/")
				vs.HTTP[0].Fault = &configs.Fault{Abort: &configs.FaultAbort{HTTPStatus: 1000, Percentage: 1}}
				w.virtual[webName] = vs
			},
			[]string{"route web.default:80", "routes.hcl:1", "HttpStatus"},
		},
		"a header without a name": {
			func(w *world) {
				vs := largeVirtualService(webName, "/")
				vs.HTTP[0].Match[0].Headers = map[string]*configs.StringMatch{"": {Exact: new("x")}}
				w.virtual[webName] = vs
			},
			[]string{"route web.default:80", "routes.hcl:1", "Name"},
		},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld()
			w.services[webName] = &registry.Service{Name: webName, Origin: "services.hcl:1", Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}}}
			was := translate(t, w.resolve())
			c.change(w)
			out, err := translator.Translate(was, w.resolve())
			if err == nil || out != nil {
				t.Fatalf("translated, with error %v", err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the error does not say %q: %v", part, err)
				}
			}
		})
	}
}

var webName = registry.Name{Namespace: "default", Name: "web"}
