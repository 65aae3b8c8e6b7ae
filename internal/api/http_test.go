package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
)

// site is the HTTP API of a world.
type site struct {
	*world
	address string
	token   string // file
	state   *pipeline.State
	current func() *pipeline.State // instead of state, if it is set
	proxies []xds.ProxyStatus
	holds   *fakeHolds
	client  *Client
}

func newSite(t *testing.T, address string) *site {
	t.Helper()
	s := &site{world: newWorld(t), state: &pipeline.State{}, holds: &fakeHolds{}}
	s.token = filepath.Join(s.dir, "admin.token")
	token, err := AdminToken(s.token)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	s.address = address
	if !strings.HasPrefix(address, "unix:") {
		s.address = l.Addr().String()
	}
	h := NewHandler(HTTPOptions{
		Log: slog.New(slog.DiscardHandler), Version: "v0.1", PolicyDir: "policy", AdminToken: token, Node: s.node,
		State: func() *pipeline.State {
			if s.current != nil {
				return s.current()
			}
			return s.state
		},
		Holds:      s.holds,
		Registries: func() []registry.Status { return []registry.Status{{Name: "mesh", Synced: true}} },
		Accept:     func(name string) (int, bool) { return 3, name == "consul" },
		ServerFile: func() configs.Diagnostics {
			return configs.Diagnostics{{Severity: configs.Error, Code: "W1101", File: "server.hcl", Line: 3}}
		},
		Proxies: func() []xds.ProxyStatus { return s.proxies },
		Metrics: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "wattle_up 1\n") }),
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, h) }()
	s.client = NewClient(ClientOptions{Address: s.address, TokenFile: s.token})
	s.stop = append(s.stop, func() {
		s.client.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return s
}

// ask sends a request as it is.
func (s *site) ask(method, path, body string, header map[string]string) (int, http.Header, string) {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, "http://"+s.address+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for k, v := range header {
		if k == "Host" {
			req.Host = v
		}
		req.Header.Set(k, v)
	}
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

func TestStatusSaysHowTheServerIs(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	if st, err := s.client.Status(t.Context()); err != nil || st.Ready || st.Revision != 0 {
		t.Errorf("before anything is in force: %+v, %v", st, err)
	}
	for _, read := range []func(context.Context) (json.RawMessage, error){s.client.Catalog, s.client.Policy} {
		_, err := read(t.Context())
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != http.StatusServiceUnavailable || e.Remedy == "" {
			t.Errorf("before anything is in force: %v", err)
		}
	}
	web := &registry.Service{Name: registry.Name{Namespace: "shop", Name: "web"}, Endpoints: []*registry.Endpoint{{Port: 80}, {Port: 81}}}
	s.state = &pipeline.State{
		Ready: true, Revision: 7, Rejected: true, Changed: time.Now(),
		Policy: &configs.Policy{Mesh: &configs.Mesh{Domain: "mesh"}}, Catalog: registry.Merge(nil, []registry.Set{{Name: "x", Services: []*registry.Service{web}}}, nil),
		Diagnostics: configs.Diagnostics{{Severity: configs.Error, Code: "W1101", Summary: "unknown attribute", File: "a.hcl", Line: 3}},
	}
	s.proxies = []xds.ProxyStatus{
		{ID: "h1/host", Connected: true, Synced: true},
		{ID: "h2/host", Connected: true, Types: []xds.TypeStatus{{Type: "route", Nack: &xds.Nack{Message: "no"}}, {Type: "listener", Nack: &xds.Nack{}}}},
		{ID: "h3/host"},
	}
	s.admit("h1")
	st, err := s.client.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !st.Ready || st.Revision != 7 || !st.Rejected || st.Policy != "policy" || st.TrustDomain != td || st.Store != s.store.ID() || st.Version != "v0.1" ||
		st.Services != 1 || st.Endpoints != 2 || st.Nodes != 1 || st.Proxies != (ProxyCounts{Known: 3, Connected: 2, Synced: 1, Nacked: 1}) {
		t.Errorf("status %s", text(st))
	}
	if len(st.Diagnostics) != 1 || st.Diagnostics[0] != s.state.Diagnostics[0] || len(st.Registries) != 1 || st.Registries[0].Name != "mesh" {
		t.Errorf("status %s", text(st))
	}
	if all, err := s.client.Proxies(t.Context()); err != nil || len(all) != 3 || all[1].Types[0].Nack.Message != "no" {
		t.Errorf("proxies %s, %v", text(all), err)
	}
	if c, err := s.client.Catalog(t.Context()); err != nil || !strings.Contains(string(c), `"web"`) {
		t.Errorf("catalog %s, %v", c, err)
	}
	if p, err := s.client.Policy(t.Context()); err != nil || !strings.Contains(string(p), `"domain"`) {
		t.Errorf("policy %s, %v", p, err)
	}
	if nodes, err := s.client.Nodes(t.Context()); err != nil || len(nodes) != 1 || nodes[0].Name != "h1" {
		t.Errorf("nodes %s, %v", text(nodes), err)
	}
	if code, _, body := s.ask(http.MethodGet, "/metrics", "", nil); code != http.StatusOK || body != "wattle_up 1\n" {
		t.Errorf("metrics: %d %s", code, body)
	}
}

func TestStatusNamesRefusedRegistrations(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	s.admit("h1")
	s.admit("h2")
	stream, _ := s.registrar.open("h2")
	if _, err := s.registrar.report("h2", stream, said{malformed: []refusal{{"shop", "web\x1b[2J", "b", "h2:web.hcl:3", "no such port"}}}); err != nil {
		t.Fatal(err)
	}
	want := []Refusal{{"h2", "shop", "web[2J", "b", "h2:web.hcl:3", "no such port"}} // nothing that moves a terminal's cursor
	if st, err := s.client.Status(t.Context()); err != nil || !slices.Equal(st.Refused, want) {
		t.Errorf("status: %+v, %v", st.Refused, err)
	}
	if nodes, err := s.client.Nodes(t.Context()); err != nil || len(nodes[0].Refused) > 0 || !slices.Equal(nodes[1].Refused, want) {
		t.Errorf("nodes: %+v, %v", nodes, err)
	}
}

func TestTheClientMakesTokensAndCertificates(t *testing.T) {
	for name, address := range map[string]string{"loopback": "127.0.0.1:0", "unix socket": "unix:" + filepath.Join(t.TempDir(), "api.sock")} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, address)
			token, err := s.client.CreateToken(t.Context(), TokenRequest{Node: "h1", Services: []string{"reviews"}, TTL: configs.Duration(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			if parsed, err := ParseToken(token.Token); err != nil || parsed.Node != "h1" || token.Expires.Sub(s.clock.now()) < 59*time.Minute {
				t.Errorf("token %+v, %v", token, err)
			}
			key := newKey(t)
			cert, err := s.client.IssueNode(t.Context(), "h2", CertificateRequest{CSR: newCSR(t, key), Services: []string{"shop/*"}})
			if err != nil || cert.Identity != "spiffe://corp.example/node/h2" || len(cert.Chain) != 2 || len(cert.Roots) != 1 || cert.NotAfter.IsZero() {
				t.Errorf("certificate %s, %v", text(cert), err)
			}
			if n, ok, err := s.store.Node("h2"); !ok || err != nil || !n.Grant.Service("shop", "x") {
				t.Errorf("node %+v, %v", n, err)
			}
			for what, try := range map[string]func() error{
				"no node": func() error { _, err := s.client.CreateToken(t.Context(), TokenRequest{}); return err },
				"a bad grant": func() error {
					_, err := s.client.CreateToken(t.Context(), TokenRequest{Node: "h1", Services: []string{"A"}})
					return err
				},
				"a bad node": func() error {
					_, err := s.client.IssueNode(t.Context(), "a/b", CertificateRequest{CSR: newCSR(t, key)})
					return err
				},
				"a bad CSR": func() error {
					_, err := s.client.IssueNode(t.Context(), "h3", CertificateRequest{CSR: []byte("x")})
					return err
				},
			} {
				if e, ok := errors.AsType[*Error](try()); !ok || e.Status != http.StatusBadRequest || e.Message == "" {
					t.Errorf("%s: %v", what, e)
				}
			}
			if _, ok, _ := s.store.Node("h3"); ok {
				t.Error("a refused request let the node in")
			}
		})
	}
}

func TestWritesNeedTheAdminToken(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	token, err := os.ReadFile(s.token)
	if err != nil {
		t.Fatal(err)
	}
	good := strings.TrimSpace(string(token))
	for name, auth := range map[string]string{
		"none": "", "empty": "Bearer ", "wrong": "Bearer " + strings.Repeat("0", len(good)), "shorter": "Bearer " + good[:len(good)-1],
		"longer": "Bearer " + good + "0", "basic": "Basic " + good,
	} {
		for _, path := range []string{"/v1/tokens", "/v1/nodes/h1/certificate"} {
			header := map[string]string{}
			if auth != "" {
				header["Authorization"] = auth
			}
			code, _, body := s.ask(http.MethodPost, path, `{"node":"h1"}`, header)
			var e Error
			if code != http.StatusUnauthorized || json.Unmarshal([]byte(body), &e) != nil || e.Message == "" || e.Remedy == "" || strings.Contains(body, good[:16]) {
				t.Errorf("%s, POST %s: %d %s", name, path, code, body)
			}
		}
	}
	auth := map[string]string{"Authorization": "bearer " + good}
	for name, body := range map[string]string{
		"no body": "", "no JSON": "node=h1", "an unknown field": `{"node":"h1","admin":true}`, "two values": `{"node":"h1"}{"node":"h2"}`,
		"a wrong type": `{"node":1}`, "an oversize body": `{"node":"` + strings.Repeat("a", maxRequest) + `"}`,
	} {
		if code, _, text := s.ask(http.MethodPost, "/v1/tokens", body, auth); code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
	if code, _, body := s.ask(http.MethodPost, "/v1/tokens", `{"node":"h1","ttl":"1m0s"}`, auth); code != http.StatusOK {
		t.Errorf("the good token: %d %s", code, body)
	}
}

func TestWebPagesAreRefused(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	for name, try := range map[string]struct {
		header map[string]string
		want   int
	}{
		"a foreign Host (DNS rebinding)": {map[string]string{"Host": "evil.example:7500"}, http.StatusForbidden},
		"a Host that looks local":        {map[string]string{"Host": "127.0.0.1.evil.example"}, http.StatusForbidden},
		"another address as Host":        {map[string]string{"Host": "10.0.0.1:7500"}, http.StatusForbidden},
		"an Origin":                      {map[string]string{"Origin": "http://evil.example"}, http.StatusForbidden},
		"the null Origin":                {map[string]string{"Origin": "null"}, http.StatusForbidden},
		"a cross-site fetch":             {map[string]string{"Sec-Fetch-Site": "cross-site"}, http.StatusForbidden},
		"a same-site fetch":              {map[string]string{"Sec-Fetch-Site": "same-site"}, http.StatusForbidden},
		"localhost":                      {map[string]string{"Host": "localhost:7500"}, http.StatusOK},
		"IPv6":                           {map[string]string{"Host": "[::1]:7500"}, http.StatusOK},
		"another loopback address":       {map[string]string{"Host": "127.0.0.2"}, http.StatusOK},
		"typed in":                       {map[string]string{"Sec-Fetch-Site": "none"}, http.StatusOK},
	} {
		code, header, body := s.ask(http.MethodGet, "/v1/status", "", try.header)
		if code != try.want || !strings.HasPrefix(header.Get("Content-Type"), "application/json") || header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %d %v %s", name, code, header, body)
		}
	}
}

func TestUnknownPathsAreJSONErrors(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	for _, ask := range []string{"GET /", "GET /v1/nothing", "POST /v1/status", "DELETE /v1/tokens", "GET /v1/tokens"} {
		method, path, _ := strings.Cut(ask, " ")
		code, _, body := s.ask(method, path, "", nil)
		var e Error
		if code != http.StatusNotFound || json.Unmarshal([]byte(body), &e) != nil || e.Message == "" || !strings.Contains(e.Remedy, "docs/http-api.md") {
			t.Errorf("%s: %d %s", ask, code, body)
		}
	}
}

func TestListenKeepsToThisMachine(t *testing.T) {
	for _, bad := range []string{"0.0.0.0:0", "[::]:0", ":0", "10.0.0.1:0", "localhost:0", "192.0.2.1:7500", "", "unix:" + filepath.Join(t.TempDir(), "no", "folder")} {
		if l, err := Listen(bad); err == nil {
			t.Errorf("%q: listens at %s", bad, l.Addr())
			l.Close()
		}
	}
	path := filepath.Join(t.TempDir(), "api.sock")
	l, err := Listen("unix:" + path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if second, err := Listen("unix:" + path); err == nil {
		t.Error("two listen at one socket")
		second.Close()
	}
	u := l.(*net.UnixListener)
	u.SetUnlinkOnClose(false) // as a kill leaves it
	if err := u.Close(); err != nil {
		t.Fatal(err)
	}
	l, err = Listen("unix:" + path)
	if err != nil {
		t.Fatalf("a socket that was left behind: %v", err)
	}
	l.Close()
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen("unix:" + path); err == nil {
		t.Error("a file that is no socket was replaced")
	}
}

func TestTheAdminTokenIsMadeOnceForTheServerAlone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "admin.token")
	token, err := AdminToken(file)
	if err != nil || len(token) != 64 {
		t.Fatalf("%q, %v", token, err)
	}
	if again, err := AdminToken(file); err != nil || again != token {
		t.Errorf("the second start: %q, %v", again, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for name, harm := range map[string]func() error{
		"open to others": func() error { return os.Chmod(file, 0o644) },
		"empty":          func() error { return errors.Join(os.Chmod(file, 0o600), os.Truncate(file, 0)) },
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		if token, err := AdminToken(file); err == nil {
			t.Errorf("%s: %q", name, token)
		}
	}
	left, err := fs.Glob(os.DirFS(filepath.Dir(file)), "*")
	if err != nil || len(left) != 1 {
		t.Errorf("files: %v, %v", left, err)
	}
}

func TestTheClientSaysWhatIsWrong(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	c := NewClient(ClientOptions{Address: address})
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "is it running") || strings.Count(err.Error(), "/v1/status") > 0 {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := c.CreateToken(t.Context(), TokenRequest{Node: "h1"}); err == nil || !strings.Contains(err.Error(), "WATTLE_TOKEN_FILE") {
		t.Errorf("no token file: %v", err)
	}
	c = NewClient(ClientOptions{Address: address, TokenFile: filepath.Join(t.TempDir(), "none")})
	if _, err := c.CreateToken(t.Context(), TokenRequest{Node: "h1"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a token file that is not there: %v", err)
	}
}

func TestWhatIsHeldIsAcceptedWithTheToken(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	if n, err := s.client.Accept(t.Context(), "consul"); n != 3 || err != nil {
		t.Errorf("%d accepted, %v", n, err)
	}
	if _, err := s.client.Accept(t.Context(), "nobody"); err == nil || !strings.Contains(err.Error(), `there is no registry "nobody"`) {
		t.Errorf("an unknown registry: %v", err)
	}
	if status, _, _ := s.ask(http.MethodPost, "/v1/registries/consul/accept", "{}", nil); status != http.StatusUnauthorized {
		t.Errorf("without the token: %d", status)
	}
	if all, err := s.client.Registries(t.Context()); err != nil || len(all) != 1 || all[0].Name != "mesh" {
		t.Errorf("registries %+v, %v", all, err)
	}
	if st, err := s.client.Status(t.Context()); err != nil || len(st.ServerFile) != 1 || st.ServerFile[0].Line != 3 {
		t.Errorf("status %+v, %v", st.ServerFile, err)
	}
}
