package main

import (
	"testing"

	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/xds"
)

func TestTheServersStatusLine(t *testing.T) {
	for _, c := range []struct {
		state   pipeline.State
		proxies []xds.ProxyStatus
		want    string
	}{
		{pipeline.State{Revision: 3}, nil, "serves revision 3 to 0 proxies, 0 in sync"},
		{pipeline.State{Revision: 4, Rejected: true}, []xds.ProxyStatus{{Connected: true, Synced: true}, {}},
			"serves revision 4 to 1 proxy, 1 in sync; the policy folder is REJECTED, see wattle status"},
	} {
		if got := serving(&c.state, c.proxies); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
