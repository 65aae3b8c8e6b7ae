package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/spiffe"
	"github.com/wattle-mesh/wattle/internal/store"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
)

const (
	defaultTTL = 10 * time.Minute
	maxTTL     = 24 * time.Hour
	maxBody    = 256 << 10
)

// HTTPOptions configure the HTTP API. All fields are required unless they say otherwise.
type HTTPOptions struct {
	Log        *slog.Logger
	Version    string
	PolicyDir  string
	CA         *ca.CA
	Store      *store.Store
	AdminToken string                   // what every write must show
	State      func() *pipeline.State   // what is in force
	Registries func() []registry.Status //
	Proxies    func() []xds.ProxyStatus //
	Metrics    http.Handler             // GET /metrics
	Now        func() time.Time         // nil: time.Now
}

type handler struct {
	o HTTPOptions
}

// NewHandler makes the HTTP API. It is meant for loopback or a unix socket: reading needs no token.
func NewHandler(o HTTPOptions) http.Handler {
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &handler{o}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", h.read(func() any { return h.status() }))
	mux.HandleFunc("GET /v1/proxies", h.read(func() any { return Proxies{h.o.Proxies()} }))
	mux.HandleFunc("GET /v1/policy", h.read(func() any { return h.o.State().Policy }))
	mux.HandleFunc("GET /v1/catalog", h.read(func() any { return h.o.State().Catalog }))
	mux.HandleFunc("GET /v1/nodes", h.nodes)
	mux.HandleFunc("POST /v1/tokens", h.write(h.createToken))
	mux.HandleFunc("POST /v1/nodes/{name}/certificate", h.write(h.certificate))
	mux.Handle("GET /metrics", o.Metrics)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fail(w, http.StatusNotFound, fmt.Errorf("there is no %s %s", r.Method, r.URL.Path), "docs/architecture.md lists the paths")
	})
	return local(mux)
}

// local refuses what a web page in a browser could send: a foreign Host (DNS rebinding) or any Origin.
func local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		if host != "localhost" && host != "wattle" && (ip == nil || !ip.IsLoopback()) {
			fail(w, http.StatusForbidden, fmt.Errorf("the Host %q is not this machine's loopback", r.Host), "use 127.0.0.1, localhost or the unix socket")
			return
		}
		if r.Header.Get("Origin") != "" {
			fail(w, http.StatusForbidden, errors.New("requests of web pages are refused"), "use the wattle command or curl")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (h *handler) read(value func() any) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { answer(w, value()) }
}

// write checks the admin token and bounds the body.
func (h *handler) write(next func(*http.Request) (any, error)) http.HandlerFunc {
	want := sha256.Sum256([]byte(h.o.AdminToken))
	return func(w http.ResponseWriter, r *http.Request) {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		got := sha256.Sum256([]byte(token))
		if subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			fail(w, http.StatusUnauthorized, errors.New("the admin token is missing or wrong"),
				"it is in admin.token in the server's state_dir: set WATTLE_TOKEN_FILE to that file")
			return
		}
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		v, err := next(r)
		switch {
		case err == nil:
			answer(w, v)
		case errors.Is(err, errBad), errors.Is(err, ca.ErrRequest):
			fail(w, http.StatusBadRequest, err, "")
		default:
			h.o.Log.Error("api", "path", r.URL.Path, "error", err)
			fail(w, http.StatusInternalServerError, errors.New("the server could not do it"), "its log says why")
		}
	}
}

// errBad marks what is wrong with a request.
var errBad = errors.New("bad request")

func decode(r *http.Request, into any) error {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%w: %w", errBad, err)
	}
	return nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	_ = e.Encode(v) // the caller went away: nobody to tell
}

func fail(w http.ResponseWriter, code int, err error, remedy string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(Failure{err.Error(), remedy}) // as above
}

func (h *handler) status() Status {
	st := h.o.State()
	s := Status{
		Ready: st.Ready, Revision: st.Revision, Rejected: st.Rejected, Changed: st.Changed, Version: h.o.Version,
		TrustDomain: h.o.CA.TrustDomain, Policy: h.o.PolicyDir, Diagnostics: st.Diagnostics, Registries: h.o.Registries(),
	}
	if st.Catalog != nil {
		for svc := range st.Catalog.All() {
			s.Services++
			s.Endpoints += len(svc.Endpoints)
		}
	}
	for _, p := range h.o.Proxies() {
		s.Proxies.Known++
		if p.Connected {
			s.Proxies.Connected++
		}
		if p.Synced {
			s.Proxies.Synced++
		}
		if slices.ContainsFunc(p.Types, func(t xds.TypeStatus) bool { return t.Nack != nil }) {
			s.Proxies.Refusing++
		}
	}
	return s
}

func (h *handler) nodes(w http.ResponseWriter, _ *http.Request) {
	nodes, err := h.o.Store.Nodes()
	if err != nil {
		fail(w, http.StatusInternalServerError, err, "")
		return
	}
	answer(w, Nodes{nodes})
}

func (h *handler) createToken(r *http.Request) (any, error) {
	var req TokenRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	if req.TTL == 0 {
		req.TTL = defaultTTL
	}
	if req.TTL < time.Second || req.TTL > maxTTL {
		return nil, fmt.Errorf("%w: a token may live for 1s to %s, not %s", errBad, maxTTL, req.TTL)
	}
	grant, err := h.grant(req.Node, req.Services)
	if err != nil {
		return nil, err
	}
	now := h.o.Now()
	token := newJoinToken(req.Node, h.o.CA.Pin())
	expires := now.Add(req.TTL)
	if err := h.o.Store.AddToken(token.Secret, store.Token{Node: req.Node, Grant: grant, Expires: expires}, now); err != nil {
		return nil, err
	}
	h.o.Log.Info("join token made", "node", req.Node, "services", grant.Services, "expires", expires)
	return TokenResponse{Token: token.String(), Node: req.Node, Expires: expires}, nil
}

// grant checks a node's name and the services granted to it.
func (h *handler) grant(node string, services []string) (store.Grant, error) {
	if err := spiffe.ForNode(h.o.CA.TrustDomain, node).Check(); err != nil {
		return store.Grant{}, fmt.Errorf("%w: %w", errBad, err)
	}
	for _, s := range services {
		ns, name, ok := strings.Cut(s, "/")
		if !ok {
			ns, name = "default", s
		}
		if ns == "" || name == "" || strings.Contains(name, "/") {
			return store.Grant{}, fmt.Errorf("%w: the grant %q is not a service: want NAME, NAMESPACE/NAME, NAMESPACE/* or */*", errBad, s)
		}
	}
	return store.Grant{Services: services}, nil
}

func (h *handler) certificate(r *http.Request) (any, error) {
	var req CertificateRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	node := r.PathValue("name")
	grant, err := h.grant(node, req.Services)
	if err != nil {
		return nil, err
	}
	leaf, err := h.o.CA.Sign(req.CSR, spiffe.ForNode(h.o.CA.TrustDomain, node), node)
	if err != nil {
		return nil, err
	}
	if err := h.o.Store.SetNode(node, grant, h.o.Now()); err != nil {
		return nil, err
	}
	h.o.Log.Info("node provisioned", "node", node, "services", grant.Services)
	return CertificateResponse{Identity: leaf.ID.String(), Chain: leaf.Chain, Roots: h.o.CA.Roots(), NotAfter: leaf.NotAfter}, nil
}
