package agent

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

func TestAPlanCannotNameProxiesOfOtherHostsOrFoldersElsewhere(t *testing.T) {
	book := &logbook{}
	p := &proxies{log: logTo(book)}
	plan := &planpb.HostPlan{}
	for _, id := range []string{"h1/host", "h1/gw-public", "h1/gw-shop.public", "h2/host", "h1/../../etc", "h1/", "h1/a/b", "h1/..", "h1/A"} {
		plan.Proxies = append(plan.Proxies, &planpb.Proxy{Id: id})
	}
	if got := p.names("h1", plan); !slices.Equal(got, []string{"gw-public", "gw-shop.public", "host"}) {
		t.Errorf("the names are %v", got)
	}
	if n := strings.Count(book.String(), "cannot have"); n != 6 {
		t.Errorf("%d were refused in the log", n)
	}
}

func TestABootstrapIsTheSameEveryTime(t *testing.T) {
	first, err := bootstrap("h1/host", "h1", "/run/wattle/host", "/run/wattle/host")
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		if again, err := bootstrap("h1/host", "h1", "/run/wattle/host", "/run/wattle/host"); err != nil || !bytes.Equal(first, again) {
			t.Fatalf("%v\n%s\n%s", err, first, again)
		}
	}
}
