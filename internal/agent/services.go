package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

// servicesFile keeps the last good registrations, for an agent that starts while the folder does not load.
const servicesFile = "services.json"

// codeForeign is the code of what is declared for another host. configs.Explain has its text.
const codeForeign = "W5001"

// services are the workloads that files on the host itself declare.
type services struct {
	log    *slog.Logger
	dir    string // empty: no files
	keep   string // path of the copy of the last good ones
	disk   *disk
	loader *configs.Loader
	settle configs.Settler
	again  time.Duration // when what is settling has done so; zero: nothing is
	held   value[*registrations]
	said   string // the last diagnostics
}

// registrations are complete. Immutable.
type registrations struct {
	list     []*apipb.Registration
	unknown  bool   // the folder cannot be read, nor what it said before
	problems []byte // configs.Diagnostics as JSON; empty: none
	revision uint64 // grows with each change; zero: of files alone
}

func (r *registrations) equal(o *registrations) bool {
	return o != nil && r.unknown == o.unknown && bytes.Equal(r.problems, o.problems) &&
		slices.EqualFunc(r.list, o.list, func(a, b *apipb.Registration) bool { return proto.Equal(a, b) })
}

func newServices(log *slog.Logger, d *disk, dir string) *services {
	return &services{log: log, dir: dir, keep: filepath.Join(d.dir, servicesFile), disk: d, loader: configs.NewLoader(configs.Options{})}
}

// run follows the folder until ctx is done. While it has an error the last good registrations hold, those of an
// earlier agent too.
func (s *services) run(ctx context.Context) error {
	if s.dir == "" {
		s.held.Set(new(registrations))
		<-ctx.Done()
		return nil
	}
	return configs.WatchAgain(ctx, s.dir, func() time.Duration { s.load(); return s.again })
}

// load reads the folder. A host without one registers nothing; one that is gone with all that was registered is a fault.
func (s *services) load() {
	now := new(registrations)
	s.again = 0
	var diags configs.Diagnostics
	_, err := os.Stat(s.dir)
	if before, _ := s.lastGood(); len(before) > 0 || !errors.Is(err, fs.ErrNotExist) {
		now.list, diags = s.read()
	}
	if diags.HasErrors() {
		now.list, now.unknown = s.lastGood()
	}
	if now.problems, err = problems(s.dir, diags); err != nil {
		s.log.Error("report what is wrong with the services", "error", err)
	}
	s.say(diags)
	old := s.held.Now()
	if now.equal(old) {
		return
	}
	s.held.Set(now)
	if diags.HasErrors() {
		return
	}
	text, err := json.Marshal(now.list)
	if err != nil {
		s.log.Error("keep the registrations on disk", "error", err)
		return
	}
	s.disk.write(s.keep, text)
}

// lastGood returns what this agent registered, or the one before it, and whether that is unknown.
func (s *services) lastGood() (list []*apipb.Registration, unknown bool) {
	if old := s.held.Now(); old != nil {
		return old.list, old.unknown
	}
	text, err := os.ReadFile(s.keep)
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	return list, err != nil
}

// maxProblems bounds what is reported; the log has all.
const maxProblems = 10

// problems makes of diagnostics what the server is told.
func problems(dir string, ds configs.Diagnostics) ([]byte, error) {
	if len(ds) == 0 {
		return nil, nil
	}
	ds = slices.Clone(ds[:min(len(ds), maxProblems)])
	for i, d := range ds {
		d.File = filepath.Join(dir, d.File)
		ds[i] = d.Bounded()
	}
	return json.Marshal(ds)
}

// read turns the folder's services into what the server is told. That most hosts have none is no problem.
func (s *services) read() ([]*apipb.Registration, configs.Diagnostics) {
	policy, diags := s.loader.LoadServices(s.dir)
	if diags.HasErrors() {
		return nil, diags
	}
	policy, gone, again := s.settle.Settle(policy, time.Now())
	s.again = again
	diags = slices.DeleteFunc(slices.Concat(diags, gone), func(d configs.Diagnostic) bool { return d.Code == configs.NoPolicyFiles })
	var foreign configs.Diagnostics
	ignored := func(kind, name, origin string) {
		d := configs.NewDiagnostic(configs.Warning, codeForeign, origin, fmt.Sprintf("%s %q is no workload of this host and is ignored", kind, name),
			"An agent registers the workloads of its own host: services without endpoint blocks. Others belong into the policy folder, or into that of a static registry.")
		foreign = append(foreign, d.At(configs.Part{Block: kind}))
	}
	for _, h := range policy.Hosts {
		ignored("host", h.Name, h.Origin)
	}
	var out []*apipb.Registration
	for _, x := range policy.Services {
		if len(x.Endpoints) > 0 {
			ignored("service", x.Name, x.Origin)
			continue
		}
		for _, u := range x.Upstreams {
			if u.Socket == "" {
				continue
			}
			if err := checkPipe(u.Socket); err != nil {
				d := configs.NewDiagnostic(configs.Error, api.CodePipe, u.Origin, fmt.Sprintf("upstream %s: %v", u.Service, err), "Choose a path where nothing is, in a folder for sockets such as /run/NAME.")
				foreign = append(foreign, d.At(configs.Part{Block: "upstream"}))
			}
		}
		body, _ := json.Marshal(x) // plain data: it cannot fail
		out = append(out, &apipb.Registration{
			Namespace: x.Namespace, Service: x.Name, Instance: x.Instance, Body: body, Origin: filepath.Join(s.dir, x.Origin),
		})
	}
	return out, append(diags, s.loader.Locate(foreign)...)
}

// say logs what is wrong with the folder, once.
func (s *services) say(diags configs.Diagnostics) {
	text := diags.Text()
	if text == s.said {
		return
	}
	s.said = text
	switch {
	case text == "":
		s.log.Info("services in " + s.dir + " are valid again")
	case diags.HasErrors():
		s.log.Error("services in " + s.dir + " rejected, those registered before stay\n" + text)
	default:
		s.log.Warn("services in " + s.dir + " registered with warnings\n" + text)
	}
}
