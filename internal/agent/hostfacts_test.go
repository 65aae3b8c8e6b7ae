package agent

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
)

func TestTheServerHearsWhatTheHostIs(t *testing.T) {
	w := newWorld(t)
	w.listen()
	w.policy(twoServices)
	dir := filepath.Join(w.dir, "facts.d")
	write(t, filepath.Join(dir, "rack"), "r7\n")
	token := w.token()
	w.start(func(c *configs.Agent) { c.FactsDir, c.Token = dir, token })
	rack := func(want string) func() error {
		return func() error {
			r := w.lastReport()
			if f := r.GetFacts(); f["rack"] != want || f["os.name"] == "" || f["kernel.version"] == "" || f["cpu.arch"] == "" || f["cpu.numcores"] == "" {
				return fmt.Errorf("%v", f)
			}
			return nil
		}
	}
	w.wait("the facts", rack("r7"))
	write(t, filepath.Join(dir, "rack"), "r8\n")
	w.wait("the facts that changed", rack("r8"))
}
