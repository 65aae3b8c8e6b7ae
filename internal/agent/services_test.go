package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

func TestAFolderThatBreaksKeepsTheLastGoodRegistrations(t *testing.T) {
	dir := t.TempDir()
	book := &logbook{}
	folder, keep := filepath.Join(dir, "services.d"), filepath.Join(dir, servicesFile)
	start := func() *services {
		s := newServices(logTo(book), folder, keep)
		s.load()
		return s
	}
	names := func(s *services) string {
		r := s.held.Now()
		if r == nil {
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
	if !strings.Contains(book.String(), "service=outside") {
		t.Error("nothing was said of the service that is no workload")
	}
	write(t, filepath.Join(folder, "a.hcl"), `service "reviews" {`)
	s.load()
	s.load()
	if got := names(s); got != "reviews from services.d/a.hcl:2" {
		t.Errorf("after the file broke: %q", got)
	}
	if n := strings.Count(book.String(), "level=ERROR"); n == 0 || n > 2 {
		t.Errorf("it was said %d times", n)
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
	if got := names(s); got != "" {
		t.Errorf("an empty folder: %q", got)
	}
}
