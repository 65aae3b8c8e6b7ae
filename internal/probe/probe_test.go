package probe

import (
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestTheFirstResultDecidesAndLaterOnesInARow(t *testing.T) {
	for results, want := range map[string]string{ // + success, - failure; h healthy, u unhealthy, . no change
		"+":         "h",
		"-":         "u",
		"+--":       "h..",
		"+---":      "h..u",
		"+--+--+":   "h......",
		"-+":        "u.",
		"-++":       "u.h",
		"-+-+-+":    "u.....",
		"+---++---": "h..u.h..u",
	} {
		s := state{healthyAfter: 2, unhealthyAfter: 3}
		got := ""
		for _, r := range results {
			var err error
			if r == '-' {
				err = errors.New("no")
			}
			switch {
			case !s.add(err):
				got += "."
			case s.health.Healthy:
				got += "h"
			default:
				got += "u"
			}
		}
		if got != want {
			t.Errorf("%s gave %s, want %s", results, got, want)
		}
	}
}

func TestAProbeSeesWhatACallerWould(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/broken", http.StatusFound)
		case "/broken":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/slow":
			<-r.Context().Done()
		}
	})
	plain := httptest.NewServer(handler)
	defer plain.Close()
	two := httptest.NewUnstartedServer(handler)
	two.Config.Protocols = new(http.Protocols)
	two.Config.Protocols.SetUnencryptedHTTP2(true)
	two.Start()
	defer two.Close()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	http1, http2 := plain.Listener.Addr().String(), two.Listener.Addr().String()
	for _, c := range []struct {
		kind, address, path, protocol string
		want                          string // part of the error; empty: success
	}{
		{"http", http1, "/", "http", ""},
		{"http", http2, "/", "http2", ""},
		{"http", http2, "/", "grpc", ""},
		{"http", http1, "/", "tcp", ""},
		{"http", http1, "/moved", "http", ""},
		{"http", http1, "/broken", "http", "status 503"},
		{"http", http1, "/slow", "http", "no answer within"},
		{"http", closed.Addr().String(), "/", "http", "refused"},
		{"tcp", http1, "", "tcp", ""},
		{"tcp", closed.Addr().String(), "", "tcp", "refused"},
		{"ping", http1, "", "tcp", "there are no checks"},
	} {
		p := Probe{Kind: c.kind, Address: c.address, Path: c.path, Protocol: c.protocol, Timeout: 100 * time.Millisecond}
		if c.want == "" {
			p.Timeout = 5 * time.Second
		}
		err := p.Try(t.Context())
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
