package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/registry"
)

// awaitWrong waits until what is wrong with the agents' declarations is what is wanted.
func (w *world) awaitWrong(want ...string) []registry.Diagnostic {
	w.t.Helper()
	var last []registry.Diagnostic
	for limit := time.After(10 * time.Second); ; {
		select {
		case last = <-w.wrong:
			if slices.EqualFunc(last, want, func(d registry.Diagnostic, s string) bool { return strings.Contains(d.String(), s) }) {
				return last
			}
		case <-limit:
			w.t.Fatalf("what is wrong is %v, not %v", last, want)
		}
	}
}

func TestWhatIsWrongWithDeclarationsIsToldOnTheServer(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	r, other := report(t, w.admit("h1", "*/*")), report(t, w.admit("h2", "*/*"))
	reviews := service("reviews")
	registered := []*apipb.Registration{register(t, reviews)}
	r.say(&apipb.ReportRequest{Registrations: registered})
	w.awaitNames("reviews@h1")

	broken, err := json.Marshal(configs.Diagnostics{{Severity: configs.Error, Code: "W1101", Summary: "unknown attribute", File: "/etc/wattle/services.d/web.hcl",
		Line: 3, Column: 5, Length: 4, Snippet: "    prot = 80"}})
	if err != nil {
		t.Fatal(err)
	}
	r.say(&apipb.ReportRequest{Unknown: true, Problems: broken})
	if d := w.awaitWrong("h1:/etc/wattle/services.d/web.hcl:3:5: error W1101: unknown attribute")[0]; d.Excerpt.Text != "    prot = 80" {
		t.Errorf("excerpt: %+v", d.Excerpt)
	}
	reviews.Ports[0].Protocol = "tcp"
	other.say(&apipb.ReportRequest{Registrations: []*apipb.Registration{register(t, reviews)}})
	w.awaitNames("reviews@h1,h2") // what h1 cannot read any more stays
	w.awaitWrong("h2:reviews.hcl:1: warning W4201: port 9080 of service shop/reviews is tcp here, but http at h1:reviews.hcl:1", "W1101")
	r.say(&apipb.ReportRequest{})
	w.awaitNames("reviews@h2")
	w.awaitWrong()
}

func TestProblemsAreBoundedWhateverTheAgentSays(t *testing.T) {
	w := newWorld(t)
	w.policy(nil)
	r := report(t, w.admit("h1", "*/*"))
	nasty := configs.Diagnostic{Severity: "fatal\x1b", Code: strings.Repeat("W", 100), Summary: "\x1b[2Jall is well" + strings.Repeat("x", 5000), File: "\x1b]0;title",
		Line: -1, Column: 1 << 40, Length: -7, SnippetColumn: -1 << 40, Snippet: strings.Repeat("\x1b", 2000)}
	text, err := json.Marshal(slices.Repeat(configs.Diagnostics{nasty}, 11))
	if err != nil {
		t.Fatal(err)
	}
	r.say(&apipb.ReportRequest{Problems: text})
	got := w.awaitWrong(slices.Repeat([]string{"all is well"}, maxProblems)...)[0]
	said := fmt.Sprintf("%+v", got)
	if len(said) > 4096 || strings.Contains(said, "\x1b") || got.Severity != registry.Error {
		t.Errorf("%d bytes: %.200s", len(said), said)
	}
	for _, bad := range []string{"{", `{"code":1}`, "[" + strings.Repeat(" ", maxProblemText) + "]"} {
		if _, err := parseProblems("h1", []byte(bad)); err == nil || len(err.Error()) > 300 {
			t.Errorf("%.20s: %v", bad, err)
		}
	}
}
