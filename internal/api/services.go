package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// The codes of what a registration can do wrong, at an agent's socket or at the server. configs.Explain has their texts.
const (
	CodeUser        = "W5002" // this user may not
	CodeFile        = "W5003" // a file of services.d declares it
	CodeOwner       = "W5004" // another user registered it
	CodeForeign     = "W5005" // its address is not this host's, or this server's to register
	CodeSocket      = "W5006" // a unix socket, for other users than root
	CodeTaken       = "W5007" // an address, port or socket is another registration's
	CodeTooMany     = "W5008" // or too fast
	CodeUnit        = "W5009" // the unit's user is not known
	CodeMalformed   = "W5010"
	CodeHost        = "W5011" // the address is a host's that has an agent
	CodeUnknown     = "W5012" // nothing of the name is registered
	CodeNoTTL       = "W5013" // it needs no heartbeats
	CodeConnections = "W5014" // another user's connections redirected, for other users than root
	CodePipe        = "W5015" // something else than a socket is where a socket is to be, or it does not belong there
)

// ServiceRef names a registration.
type ServiceRef struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Instance  string `json:"instance,omitempty"`
}

// noInstance stands in paths for no instance: none can have that name.
const noInstance = "-"

// path is where the registration is found.
func (r ServiceRef) path() string {
	instance := r.Instance
	if instance == "" {
		instance = noInstance
	}
	return "/v1/services/" + url.PathEscape(r.Namespace) + "/" + url.PathEscape(r.Name) + "/" + url.PathEscape(instance)
}

// String returns "namespace/name" or "namespace/name/instance".
func (r ServiceRef) String() string {
	return strings.TrimSuffix(r.Namespace+"/"+r.Name+"/"+r.Instance, "/")
}

// RefOf returns the registration that the path of a request names.
func RefOf(r *http.Request) (ServiceRef, error) {
	ref := ServiceRef{r.PathValue("namespace"), r.PathValue("name"), r.PathValue("instance")}
	if ref.Instance == noInstance {
		ref.Instance = ""
	}
	for _, name := range []string{ref.Namespace, ref.Name} {
		if err := spiffe.CheckName(name); err != nil {
			return ref, malformed(err.Error())
		}
	}
	if ref.Instance != "" && !instanceName.MatchString(ref.Instance) {
		return ref, malformed("no instance can be called \"" + printable(clip(ref.Instance, 64)) + "\"")
	}
	return ref, nil
}

func malformed(message string) *Error {
	return &Error{http.StatusBadRequest, message, "see docs/registries.md, on the registry mesh", CodeMalformed}
}

// The states of a registration.
const (
	StateAccepted     = "accepted"     // it counts
	StateRefused      = "refused"      // it does not; Reason says why
	StatePending      = "pending"      // the server has not said
	StateDeregistered = "deregistered" // somebody has ended it, so its run, which renews it, is refused
)

// ServiceRequest is the body of PUT /v1/services/...: at an agent a workload of its host, at the server a service with
// endpoints elsewhere.
type ServiceRequest struct {
	Service *configs.Service `json:"service"`
	// Wait is how long an agent waits for the server's word on it: "5s", at most 30 s. Servers know at once.
	Wait configs.Duration `json:"wait,omitzero"`
	Run
}

// ServicesRequest is the body of PUT /v1/services: several of them, of which all or none are registered.
type ServicesRequest struct {
	Services []*configs.Service `json:"services"` // at most MaxServices
	Wait     configs.Duration   `json:"wait,omitzero"`
	Run
}

// ServicesAnswer is the answer to that, in the same order.
type ServicesAnswer struct {
	Services []ServiceAnswer `json:"services"`
}

// MaxServices is how many services one request registers.
const MaxServices = 128

// Run is the one wattle service run that registers, so that the end of an earlier run does not end what a later one, of the
// same workload, has registered. The zero value is of commands that do not end what they registered.
type Run struct {
	ID string `json:"run,omitempty"` // of letters, digits, hyphens, at most 64
	// Renew says that the run has registered before. It then changes nothing if another has since, or if somebody has
	// deregistered the service: that is answered with StateDeregistered.
	Renew bool `json:"renew,omitempty"`
}

var runID = regexp.MustCompile(`^[A-Za-z0-9-]{0,64}$`)

func (r Run) check() error {
	if !runID.MatchString(r.ID) || r.Renew && r.ID == "" {
		return malformed("run is no id of a run: letters, digits and hyphens, at most 64; renew needs one")
	}
	return nil
}

// Of says of an error about one of several services which one it is, and where that was declared.
func Of(s *configs.Service, all []*configs.Service, err error) error {
	e, ok := errors.AsType[*Error](err)
	if !ok || len(all) < 2 {
		return err
	}
	out := *e
	out.Message = strings.TrimPrefix(s.Origin+": ", ": ") + "service " + refOf(s).String() + ": " + e.Message + "; nothing is registered"
	return &out
}

func refOf(s *configs.Service) ServiceRef { return ServiceRef{s.Namespace, s.Name, s.Instance} }

func refsOf(all []*configs.Service) []ServiceRef {
	out := make([]ServiceRef, 0, len(all))
	for _, s := range all {
		out = append(out, refOf(s))
	}
	return out
}

// ServiceStatus is a registration and how it is.
type ServiceStatus struct {
	ServiceRef
	Service      *configs.Service `json:"service"`
	Origin       string           `json:"origin"`              // the file and line, or who registered it
	UID          *uint32          `json:"uid,omitempty"`       // of the user who registered it at an agent's socket
	Registered   time.Time        `json:"registered,omitzero"` // when it was first; not of files
	State        string           `json:"state"`
	Reason       string           `json:"reason,omitempty"`        // why it is refused, pending or deregistered
	Health       string           `json:"health"`                  // healthy, unhealthy, draining or unknown
	HealthReason string           `json:"health_reason,omitempty"` //
	Heartbeat    time.Time        `json:"heartbeat,omitzero"`      // the last one, or since when one is waited for
	Drain        *DrainStatus     `json:"drain,omitempty"`         // it takes no new requests
}

// ServiceAnswer is the answer to a write: what is registered now.
type ServiceAnswer struct {
	ServiceStatus
	Changed bool `json:"changed"` // by this request
}

// Services is the answer of GET /v1/services, sorted by namespace, name and instance.
type Services struct {
	Services []ServiceStatus `json:"services"`
}

// ParseServiceRequest reads the body of PUT and checks it but for what depends on who asks, and where.
func ParseServiceRequest(ref ServiceRef, r *http.Request) (*ServiceRequest, error) {
	var req ServiceRequest
	if err := decode(r.Body, &req); err != nil {
		return nil, malformed(err.Error())
	}
	s := req.Service
	if s == nil {
		return nil, malformed("the body has no service")
	}
	if s.Namespace != ref.Namespace || s.Name != ref.Name || s.Instance != ref.Instance {
		return nil, malformed("the path is of " + ref.String() + ", and the body of another service")
	}
	if err := errors.Join(checkRequest(s), checkWait(req.Wait)); err != nil {
		return nil, malformed(err.Error())
	}
	return &req, req.check()
}

// ParseServicesRequest is ParseServiceRequest for several.
func ParseServicesRequest(r *http.Request) (*ServicesRequest, error) {
	var req ServicesRequest
	if err := decode(r.Body, &req); err != nil {
		return nil, malformed(err.Error())
	}
	if n := len(req.Services); n == 0 || n > MaxServices {
		return nil, malformed(fmt.Sprintf("the body has %d services, it may have 1 to %d", n, MaxServices))
	}
	seen := map[ServiceRef]bool{}
	for _, s := range req.Services {
		if s == nil {
			return nil, malformed("a service is empty")
		}
		for _, name := range []string{s.Namespace, s.Name} {
			if err := spiffe.CheckName(name); err != nil {
				return nil, malformed(err.Error())
			}
		}
		if s.Instance != "" && !instanceName.MatchString(s.Instance) || s.Instance == noInstance {
			return nil, malformed("no instance can be called \"" + printable(clip(s.Instance, 64)) + "\"")
		}
		if err := checkRequest(s); err != nil {
			return nil, Of(s, req.Services, malformed(err.Error()))
		}
		if seen[refOf(s)] {
			return nil, Of(s, req.Services, malformed("it is there twice"))
		}
		seen[refOf(s)] = true
	}
	if err := checkWait(req.Wait); err != nil {
		return nil, malformed(err.Error())
	}
	return &req, req.check()
}

func checkWait(d configs.Duration) error {
	if d < 0 || time.Duration(d) > MaxWait {
		return errors.New("wait is not from 0s to 30s")
	}
	return nil
}

// checkRequest says what a service cannot be that is registered, whoever asks.
func checkRequest(s *configs.Service) error {
	s.Command, s.Env = nil, nil // the environment may hold secrets
	if s.Weight == 0 {
		s.Weight = 1 // as for a file, and for the command line
	}
	s.Origin = printable(clip(s.Origin, maxOrigin))
	if err := CheckService(s); err != nil {
		return errors.New(printable(err.Error()))
	}
	ttl, after := time.Duration(s.TTL), time.Duration(s.DeregisterAfter)
	switch {
	case ttl != 0 && (ttl < configs.MinTTL || ttl > configs.MaxTTL):
		return errors.New("the ttl is not from 1s to 24h")
	case after != 0 && (ttl == 0 || after < ttl || after > configs.MaxDeregisterAfter):
		return errors.New("deregister_after needs a ttl, is not shorter than that, and is at most 720h")
	case s.Unit != "" && !configs.UnitName.MatchString(s.Unit):
		return errors.New("the unit is no service unit: write its whole name, \"web.service\"")
	}
	return nil
}

// MaxWait is how long an agent waits for a server's word at most.
const MaxWait = 30 * time.Second

// Services returns what is registered, sorted.
func (c *Client) Services(ctx context.Context) ([]ServiceStatus, error) {
	all, err := get[Services](ctx, c, "/v1/services")
	return all.Services, err
}

// Register registers a service. One that is registered so already stays as it is.
func (c *Client) Register(ctx context.Context, r ServiceRequest) (ServiceAnswer, error) {
	return send[ServiceAnswer](ctx, c, http.MethodPut, ServiceRef{r.Service.Namespace, r.Service.Name, r.Service.Instance}.path(), r)
}

// RegisterAll registers several services, all or none.
func (c *Client) RegisterAll(ctx context.Context, r ServicesRequest) ([]ServiceAnswer, error) {
	got, err := send[ServicesAnswer](ctx, c, http.MethodPut, "/v1/services", r)
	return got.Services, err
}

// Leave is Deregister by a run: it changes nothing if another has registered the service since.
func (c *Client) Leave(ctx context.Context, ref ServiceRef, run string) (ServiceAnswer, error) {
	return send[ServiceAnswer](ctx, c, http.MethodDelete, ref.path()+"?run="+url.QueryEscape(run), nil)
}

// Deregister ends a registration. That there is none is no error: the answer says that nothing changed.
func (c *Client) Deregister(ctx context.Context, ref ServiceRef) (ServiceAnswer, error) {
	return send[ServiceAnswer](ctx, c, http.MethodDelete, ref.path(), nil)
}

// Heartbeat says that a service that is registered with a ttl lives.
func (c *Client) Heartbeat(ctx context.Context, ref ServiceRef) (ServiceAnswer, error) {
	return send[ServiceAnswer](ctx, c, http.MethodPut, ref.path()+"/heartbeat", nil)
}

var notInstance = regexp.MustCompile(`[^A-Za-z0-9]+`)

// InstanceAt is what an instance at an address is called if nobody says: "10.0.0.9", "fd00-0000-...".
func InstanceAt(a netip.Addr) string {
	if a.Is4() {
		return a.String()
	}
	return notInstance.ReplaceAllString(a.WithZone("").StringExpanded(), "-")
}

func (h *handler) registrar() *Registrar { return h.o.Node.o.Registrar }

func (h *handler) register(r *http.Request) (any, error) {
	ref, err := RefOf(r)
	if err != nil {
		return nil, err
	}
	req, err := ParseServiceRequest(ref, r)
	if err != nil {
		return nil, err
	}
	all, err := h.registrar().Enroll([]*configs.Service{req.Service}, req.Run)
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

func (h *handler) registerAll(r *http.Request) (any, error) {
	req, err := ParseServicesRequest(r)
	if err != nil {
		return nil, err
	}
	all, err := h.registrar().Enroll(req.Services, req.Run)
	return ServicesAnswer{all}, err
}

func (h *handler) deregister(r *http.Request) (any, error) {
	ref, err := RefOf(r)
	if err != nil {
		return nil, err
	}
	return h.registrar().Deregister(ref, r.URL.Query().Get("run"))
}

func (h *handler) heartbeat(r *http.Request) (any, error) {
	ref, err := RefOf(r)
	if err != nil {
		return nil, err
	}
	return h.registrar().Heartbeat(ref, true)
}

func (h *handler) service(w http.ResponseWriter, r *http.Request) {
	ref, err := RefOf(r)
	var v any
	if err == nil {
		v, err = h.registrar().DirectOne(ref)
	}
	h.answer(w, r, v, err)
}
