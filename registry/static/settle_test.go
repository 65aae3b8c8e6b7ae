package static

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/wattle-mesh/wattle/registry"
)

// A file that is cut short for a moment, as one that is being written, takes nothing away.
func TestAFileThatIsCutShortTakesNothingAwayAtOnce(t *testing.T) {
	f := newFolder(t)
	f.write("web.hcl", "service \"web\" {\n  port = 80\n  endpoint { address = \"10.0.0.1\" }\n}\n")
	ctx, cancel := context.WithCancel(t.Context())
	sets, ended := make(chan []*registry.Service, 1000), make(chan error)
	go func() { ended <- f.source.Run(ctx, func(s []*registry.Service) { sets <- s }) }()
	defer func() {
		cancel()
		<-ended
	}()
	if got := <-sets; len(got) != 1 {
		t.Fatalf("%d services", len(got))
	}
	<-f.reports
	if err := os.Truncate(filepath.Join(f.dir, "web.hcl"), 0); err != nil {
		t.Fatal(err)
	}
	if got := <-sets; len(got) != 1 {
		t.Errorf("%d services as soon as the file is empty", len(got))
	}
	said := false
	for !said {
		for _, d := range <-f.reports {
			said = said || d.Code == "W1411"
		}
	}
	for got := range sets { // the test's own timeout bounds it
		if len(got) == 0 {
			break
		}
	}
}
