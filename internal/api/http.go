package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
)

// maxRequest bounds the body of a write.
const maxRequest = 64 << 10 // bytes

// HTTPOptions configure the HTTP API. All fields are required unless they say otherwise.
type HTTPOptions struct {
	Log        *slog.Logger
	Version    string
	PolicyDir  string
	AdminToken string // what every write must show; see AdminToken
	Node       *Node
	State      func() *pipeline.State // what is in force
	// AcceptPolicy is (*pipeline.Loop).Accept.
	AcceptPolicy func(context.Context) error
	Registries   func() []registry.Status //
	// Accept lets go of what is held of a registry, and returns how many endpoints that were; false: there is no such
	// registry.
	Accept     func(registry string) (endpoints int, ok bool)
	ServerFile func() configs.Diagnostics // what is wrong with the server's own file
	Proxies    func() []xds.ProxyStatus   //
	Holds      Holds                      // *registry.Aggregator
	Metrics    http.Handler               // GET /metrics; nil: none
}

// Holds knows what is served though its registry no longer names it.
type Holds interface {
	Holds() map[string][]registry.Held // by registry; not to be changed
	HeldOf(registry.Name) []registry.HeldEndpoint
}

type handler struct {
	o       HTTPOptions
	token   [sha256.Size]byte // hash of the admin token
	watches atomic.Int32      // how many watch
	slowest time.Duration     // how long a watcher may take for a chunk
	lines   lines
}

// NewHandler makes the HTTP API. It is meant for a Listener of Listen: reads need no token.
func NewHandler(o HTTPOptions) http.Handler {
	h := &handler{o: o, token: sha256.Sum256([]byte(o.AdminToken)), slowest: slowest}
	mux := http.NewServeMux()
	for _, r := range h.routes() {
		mux.Handle(r.pattern, r.handler)
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		// The mux itself would answer a known path with another method in plain text.
		fail(w, &Error{http.StatusNotFound, fmt.Sprintf("there is no %s %s", r.Method, clip(r.URL.Path, 200)), "docs/http-api.md lists what there is", ""})
	})
	return guard(mux)
}

// route is one request that the API answers.
type route struct {
	pattern string // as in http.ServeMux; docs/http-api.md has a section for each
	handler http.Handler
}

func (h *handler) routes() []route {
	all := []route{
		{"GET /v1/status", h.read(h.status)},
		{"GET /v1/proxies", h.read(func() (any, error) { return h.proxies(), nil })},
		{"GET /v1/catalog", h.read(h.catalog)},
		{"GET /v1/catalog/services", h.readOf(h.services)},
		{"GET /v1/catalog/watch", http.HandlerFunc(h.watch)},
		{"GET /v1/catalog/{namespace}/{name}", h.readOf(h.describe)},
		{"GET /v1/policy", h.read(h.policy)},
		{"GET /v1/nodes", h.read(h.nodes)},
		{"GET /v1/nodes/{name}", h.readOf(h.node)},
		{"PUT /v1/nodes/{name}/drain", h.write(h.drain)},
		{"DELETE /v1/nodes/{name}/drain", h.write(h.undrain)},
		{"POST /v1/policy/accept", h.write(h.acceptPolicy)},
		{"GET /v1/registries", h.read(func() (any, error) { return Registries{h.o.Registries()}, nil })},
		{"POST /v1/registries/{name}/accept", h.write(h.accept)},
		{"GET /v1/services", h.read(func() (any, error) { return Services{h.registrar().Direct()}, nil })},
		{"GET /v1/services/{namespace}/{name}/{instance}", http.HandlerFunc(h.service)},
		{"PUT /v1/services", h.write(h.registerAll)},
		{"PUT /v1/services/{namespace}/{name}/{instance}", h.write(h.register)},
		{"DELETE /v1/services/{namespace}/{name}/{instance}", h.write(h.deregister)},
		{"PUT /v1/services/{namespace}/{name}/{instance}/heartbeat", h.write(h.heartbeat)},
		{"POST /v1/tokens", h.write(h.createToken)},
		{"POST /v1/nodes/{name}/certificate", h.write(h.issue)},
		{"DELETE /v1/nodes/{name}", h.write(h.forget)},
	}
	if h.o.Metrics != nil {
		all = append(all, route{"GET /metrics", h.o.Metrics})
	}
	return all
}

// errNotReady is the answer while nothing has been published yet.
var errNotReady = &Error{http.StatusServiceUnavailable, "the server has no policy in force yet", "see wattle status", ""}

func (h *handler) read(value func() (any, error)) http.HandlerFunc {
	return h.readOf(func(*http.Request) (any, error) { return value() })
}

// readOf is read of what the request names.
func (h *handler) readOf(value func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := value(r)
		h.answer(w, r, v, err)
	}
}

// write checks the admin token before it looks at the request.
func (h *handler) write(do func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		got := sha256.Sum256([]byte(token))
		if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare(got[:], h.token[:]) != 1 {
			w.Header().Set("WWW-Authenticate", "Bearer")
			fail(w, &Error{http.StatusUnauthorized, "the admin token is missing or wrong",
				"it is in admin.token in the server's state folder; set WATTLE_TOKEN_FILE to that file", ""})
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		v, err := do(r)
		h.answer(w, r, v, err)
	}
}

func (h *handler) answer(w http.ResponseWriter, r *http.Request, v any, err error) {
	Respond(h.o.Log, w, r, v, err)
}

// Respond writes a value as JSON, or the error instead. What is wrong with the machine, not with the request, is logged, not
// told.
func Respond(log *slog.Logger, w http.ResponseWriter, r *http.Request, v any, err error) {
	if err == nil {
		var text []byte
		if text, err = json.MarshalIndent(v, "", "  "); err == nil {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write(append(text, '\n')) // if the client is gone there is nobody to tell
			return
		}
	}
	if e, ok := errors.AsType[*Error](err); ok {
		fail(w, e)
		return
	}
	if errors.Is(err, store.ErrUnwritable) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		log.Error("request refused, the disk cannot be written", "path", r.URL.Path, "error", err)
		fail(w, &Error{http.StatusInsufficientStorage, "the disk cannot be written, and nothing was changed", "free some space; what is in force stays until then", ""})
		return
	}
	if errors.Is(err, ErrInput) || errors.Is(err, ca.ErrRequest) {
		fail(w, &Error{http.StatusBadRequest, err.Error(), "", ""})
		return
	}
	log.Error("request failed", "path", r.URL.Path, "error", err)
	fail(w, &Error{http.StatusInternalServerError, "this cannot be done now", "the log says why", ""})
}

func fail(w http.ResponseWriter, e *Error) {
	text, err := json.Marshal(e)
	if err != nil {
		text = []byte(`{"error":"internal error"}`) // strings always encode
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(e.Status)
	_, _ = w.Write(append(text, '\n')) // as in answer
}

func (h *handler) status() (any, error) {
	st := h.o.State()
	nodes, err := h.o.Node.Nodes()
	if err != nil {
		return nil, err
	}
	s := Status{
		Ready: st.Ready, Revision: st.Revision, Rejected: st.Rejected, Changed: st.Changed, Policy: h.o.PolicyDir,
		Diagnostics: diagnostics(st), ServerFile: h.o.ServerFile(), Registries: h.o.Registries(), Proxies: countProxies(h.o.Proxies()), Nodes: len(nodes),
		TrustDomain: h.o.Node.o.CA.TrustDomain, Store: h.o.Node.o.Store.ID(), Version: h.o.Version,
	}
	if since, err := h.o.Node.o.Store.Fault(); err != nil {
		s.Alarms = append(s.Alarms, Alarm{Name: "disk", Text: fmt.Sprintf("%v (since %s); what is in force stays and is served, changes are refused: free some space on the server's disk", err, stamp(since))})
	}
	for _, n := range nodes {
		s.Refused = append(s.Refused, n.Refused...)
		if n.Node.Drain != nil || len(n.Drains) > 0 {
			s.Drains = append(s.Drains, NodeDrains{n.Name, n.Node.Drain, n.Drains})
		}
		s.Alarms = append(s.Alarms, n.Alarms...)
	}
	if st.Catalog != nil {
		for svc := range st.Catalog.All() {
			s.Services++
			s.Endpoints += len(svc.Endpoints)
			for _, e := range svc.Endpoints {
				if e.Workload != nil && e.Reason == registry.Unreported {
					s.Unreported++
				}
			}
		}
	}
	return s, nil
}

// diagnostics returns those of the state, none as an empty list: not null.
func diagnostics(st *pipeline.State) configs.Diagnostics {
	if st.Diagnostics == nil {
		return configs.Diagnostics{}
	}
	return st.Diagnostics
}

func (h *handler) proxies() Proxies {
	all := h.o.Proxies()
	if all == nil {
		all = []xds.ProxyStatus{}
	}
	return Proxies{all}
}

func (h *handler) catalog() (any, error) {
	if c := h.o.State().Catalog; c != nil {
		return c, nil
	}
	return nil, errNotReady
}

func (h *handler) policy() (any, error) {
	if p := h.o.State().Policy; p != nil {
		return p, nil
	}
	return nil, errNotReady
}

func (h *handler) nodes() (any, error) {
	all, err := h.o.Node.Nodes()
	return Nodes{all}, err
}

func (h *handler) acceptPolicy(r *http.Request) (any, error) {
	if err := decode(r.Body, &struct{}{}); err != nil {
		return nil, err
	}
	if err := h.o.AcceptPolicy(r.Context()); err != nil {
		return nil, err
	}
	st := h.o.State()
	return AcceptedPolicy{Revision: st.Revision, Rejected: st.Rejected, Diagnostics: diagnostics(st)}, nil
}

func (h *handler) createToken(r *http.Request) (any, error) {
	var req TokenRequest
	if err := decode(r.Body, &req); err != nil {
		return nil, err
	}
	return h.o.Node.CreateToken(req)
}

func (h *handler) issue(r *http.Request) (any, error) {
	var req CertificateRequest
	if err := decode(r.Body, &req); err != nil {
		return nil, err
	}
	return h.o.Node.Issue(r.PathValue("name"), req)
}

func (h *handler) accept(r *http.Request) (any, error) {
	name := r.PathValue("name")
	n, ok := h.o.Accept(name)
	if !ok {
		return nil, &Error{http.StatusNotFound, fmt.Sprintf("there is no registry %q", clip(name, 64)), "wattle registry status lists them", ""}
	}
	return Accepted{n}, nil
}

// decode reads a body that is one JSON value and has no unknown field.
func decode(body io.Reader, into any) error {
	d := json.NewDecoder(body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if err == nil {
		if _, more := d.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("the body goes on after its end")
		}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInput, err)
	}
	return nil
}
