package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

// servicesFile keeps the last good registrations, for an agent that starts while the folder is not good.
const servicesFile = "services.json"

// services are the workloads that files on the host itself declare.
type services struct {
	log    *slog.Logger
	dir    string // empty: no files
	keep   string // path of the copy of the last good ones
	loader *configs.Loader
	held   value[*registrations]
	said   string // the last diagnostics
}

// registrations are complete. Immutable.
type registrations struct {
	list []*apipb.Registration
}

func newServices(log *slog.Logger, dir, keep string) *services {
	return &services{log: log, dir: dir, keep: keep, loader: configs.NewLoader(configs.Options{})}
}

// run follows the folder until ctx is done. While it has an error the last good registrations hold, those of an
// earlier agent too.
func (s *services) run(ctx context.Context) error {
	if s.dir == "" {
		s.held.Set(new(registrations))
		<-ctx.Done()
		return nil
	}
	return configs.Watch(ctx, s.dir, s.load)
}

// load reads the folder. One that is missing holds nothing.
func (s *services) load() {
	var found []*apipb.Registration
	if _, err := os.Stat(s.dir); !errors.Is(err, fs.ErrNotExist) {
		policy, diags := s.loader.LoadServices(s.dir)
		s.say(diags)
		if diags.HasErrors() {
			s.restore()
			return
		}
		if found, err = s.registrations(policy); err != nil {
			s.log.Error("cannot register the services", "folder", s.dir, "error", err)
			return
		}
	}
	if old := s.held.Now(); old != nil && slices.EqualFunc(old.list, found, func(a, b *apipb.Registration) bool { return proto.Equal(a, b) }) {
		return
	}
	s.held.Set(&registrations{found})
	text, err := json.Marshal(found)
	if err == nil {
		err = writeFile(s.keep, text)
	}
	if err != nil {
		s.log.Error("keep the registrations on disk", "error", err)
	}
}

// restore takes what an earlier agent registered, if this one has nothing yet.
func (s *services) restore() {
	if s.held.Now() != nil {
		return
	}
	text, err := os.ReadFile(s.keep)
	if err != nil {
		return // nothing was registered, or it cannot be known: the server keeps what it has
	}
	r := new(registrations)
	if json.Unmarshal(text, &r.list) == nil {
		s.held.Set(r)
	}
}

// registrations turns the folder's services into what the server is told.
func (s *services) registrations(p *configs.Policy) ([]*apipb.Registration, error) {
	for _, h := range p.Hosts {
		s.log.Warn("a host block has no place here and is ignored", "place", h.Origin)
	}
	var out []*apipb.Registration
	for _, x := range p.Services {
		if len(x.Endpoints) > 0 {
			s.log.Warn("a service with endpoint blocks is no workload of this host and is ignored", "service", x.Name, "place", x.Origin)
			continue
		}
		body, err := json.Marshal(x)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", x.Name, err)
		}
		out = append(out, &apipb.Registration{
			Namespace: x.Namespace, Service: x.Name, Instance: x.Instance, Body: body, Origin: filepath.Join(s.dir, x.Origin),
		})
	}
	return out, nil
}

// say logs what is wrong with the folder, once.
func (s *services) say(diags configs.Diagnostics) {
	text := ""
	for _, d := range diags {
		text += d.String() + "\n"
	}
	if text == s.said {
		return
	}
	s.said = text
	for _, d := range diags {
		level := slog.LevelError
		if d.Severity == configs.Warning {
			level = slog.LevelWarn
		}
		s.log.Log(context.Background(), level, d.Summary, "code", d.Code, "place", d.Origin(), "detail", d.Detail)
	}
}
