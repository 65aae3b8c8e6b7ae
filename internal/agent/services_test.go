package agent

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

func TestAFolderThatBreaksKeepsTheLastGoodRegistrations(t *testing.T) {
	dir := t.TempDir()
	book := &logbook{}
	folder, keep := filepath.Join(dir, "services.d"), filepath.Join(dir, servicesFile)
	start := func() *services {
		s := newServices(logTo(book), newDisk(dir, &alarms{log: logTo(book)}), folder)
		s.load()
		return s
	}
	names := func(s *services) string {
		r := s.held.Now()
		if r.unknown {
			return "nothing known"
		}
		var out []string
		for _, x := range r.list {
			out = append(out, x.GetService()+" from "+strings.TrimPrefix(x.GetOrigin(), dir+"/"))
		}
		return strings.Join(out, ", ")
	}

	s := start()
	if got := names(s); got != "" {
		t.Errorf("a folder that is missing: %q", got)
	}
	write(t, filepath.Join(folder, "a.hcl"), `
service "reviews" {
  port = 9080
}
service "outside" {
  port = 80
  endpoint { address = "192.0.2.1" }
}
`)
	s.load()
	if got := names(s); got != "reviews from services.d/a.hcl:2" {
		t.Errorf("a good folder: %q", got)
	}
	if got := problemsOf(t, s); !strings.Contains(got, `W5001: service "outside" is no workload of this host`) || strings.Count(book.String(), "outside") == 0 {
		t.Errorf("of the service that is no workload: %q", got)
	}
	write(t, filepath.Join(folder, "a.hcl"), `service "reviews" {`)
	s.load()
	s.load()
	if got := names(s); got != "reviews from services.d/a.hcl:2" {
		t.Errorf("after the file broke: %q", got)
	}
	if n := strings.Count(book.String(), "level=ERROR"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	if got := problemsOf(t, s); !strings.HasPrefix(got, folder+"/a.hcl:1:") || !strings.Contains(got, "error W1001") {
		t.Errorf("the server is told %q", got)
	}
	next := start()
	if got := names(next); got != "reviews from services.d/a.hcl:2" {
		t.Errorf("for an agent that starts meanwhile: %q", got)
	}
	if !proto.Equal(&apipb.ReportRequest{Registrations: next.held.Now().list}, &apipb.ReportRequest{Registrations: s.held.Now().list}) {
		t.Error("the registrations are not those of before")
	}
	if err := os.Remove(keep); err != nil {
		t.Fatal(err)
	}
	if got := names(start()); got != "nothing known" {
		t.Errorf("with nothing to go by: %q", got)
	}
	if err := os.Remove(filepath.Join(folder, "a.hcl")); err != nil {
		t.Fatal(err)
	}
	s.load()
	if got := names(s); got != "reviews from services.d/a.hcl:2" || !strings.Contains(problemsOf(t, s), "warning W1411: service reviews is gone") {
		t.Errorf("as soon as the folder is empty: %q", got)
	}
	<-time.After(s.again)
	s.load()
	if got := names(s) + problemsOf(t, s); got != "" {
		t.Errorf("an empty folder: %q", got)
	}
	if !strings.Contains(book.String(), "are valid again") {
		t.Error("nothing was said of the folder being valid again")
	}

	write(t, filepath.Join(folder, "a.hcl"), `service "reviews" { port = 9080 }`)
	s.load()
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	s.load()
	for _, s := range []*services{s, start()} {
		if got := names(s); got != "reviews from services.d/a.hcl:1" || !strings.Contains(problemsOf(t, s), "W1401") {
			t.Errorf("a folder that is gone: %q, %q", got, problemsOf(t, s))
		}
	}
}

// problemsOf lists what the server is told.
func problemsOf(t *testing.T, s *services) string {
	t.Helper()
	text := s.held.Now().problems
	if len(text) == 0 {
		return ""
	}
	var ds configs.Diagnostics
	if err := json.Unmarshal(text, &ds); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range ds {
		out = append(out, d.String())
	}
	return strings.Join(out, "\n")
}
