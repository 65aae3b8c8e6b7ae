package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/internal/xds"
	"github.com/wattle-mesh/wattle/registry"
)

// maxAnswer bounds what the client reads: a catalog of 10,000 services is a tenth of it.
const maxAnswer = 256 << 20

// ClientOptions configure a Client.
type ClientOptions struct {
	Address   string // "127.0.0.1:7500" or "unix:/path"
	TokenFile string // the admin token, read when a write needs it; reads need none
	Agent     bool   // Address is an agent's socket, which knows its peers and wants no token
}

// Client speaks to the HTTP API. Its methods may be called from any goroutine. Their errors match *Error if the
// server answered.
type Client struct {
	o    ClientOptions
	base string
	http *http.Client
	long *http.Client // for answers that do not end
}

// NewClient makes a client. It connects to nothing yet.
func NewClient(o ClientOptions) *Client {
	c := &Client{o: o, base: "http://" + o.Address, http: &http.Client{Timeout: time.Minute}}
	transport := &http.Transport{MaxIdleConnsPerHost: 2, IdleConnTimeout: 30 * time.Second} // no proxy from the environment: it would get the admin token
	if path, ok := strings.CutPrefix(o.Address, "unix:"); ok {
		c.base = "http://localhost"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
	}
	c.http.Transport, c.long = transport, &http.Client{Transport: transport}
	return c
}

// Close closes connections that are kept open for the next call.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Status returns how the server is.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return get[Status](ctx, c, "/v1/status")
}

// Catalog returns the catalog's JSON.
func (c *Client) Catalog(ctx context.Context) (json.RawMessage, error) {
	return get[json.RawMessage](ctx, c, "/v1/catalog")
}

// CatalogServices returns the services of the catalog that the query picks; docs/http-api.md says what it may hold.
func (c *Client) CatalogServices(ctx context.Context, query url.Values) ([]CatalogService, error) {
	all, err := get[CatalogServices](ctx, c, "/v1/catalog/services?"+query.Encode())
	return all.Services, err
}

// Describe returns one service of the catalog, and how it is called.
func (c *Client) Describe(ctx context.Context, n registry.Name) (DescribedService, error) {
	return get[DescribedService](ctx, c, servicePath(n))
}

// WatchCatalog calls each with the services that the query picks, and then again with each that changes, until ctx is
// done, the connection breaks, or each returns an error, which it returns.
func (c *Client) WatchCatalog(ctx context.Context, query url.Values, each func(CatalogEvent) error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/v1/catalog/watch?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	resp, err := c.long.Do(req)
	if err != nil {
		return c.unreachable(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusMultipleChoices {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		return c.refused(resp, text)
	}
	in := bufio.NewScanner(resp.Body)
	in.Buffer(nil, maxAnswer)
	for in.Scan() {
		var e CatalogEvent
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return fmt.Errorf("server at %s: /v1/catalog/watch: %w", c.o.Address, err)
		}
		if err := each(e); err != nil {
			return err
		}
	}
	err = in.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("server at %s: read what it says: %w", c.o.Address, err)
}

// Policy returns the JSON of the policy in force.
func (c *Client) Policy(ctx context.Context) (json.RawMessage, error) {
	return get[json.RawMessage](ctx, c, "/v1/policy")
}

// AcceptPolicy lets the policy folder lack files whose blocks are in force.
func (c *Client) AcceptPolicy(ctx context.Context) (AcceptedPolicy, error) {
	return post[AcceptedPolicy](ctx, c, "/v1/policy/accept", struct{}{})
}

// Proxies returns the state of every proxy, sorted by id.
func (c *Client) Proxies(ctx context.Context) ([]xds.ProxyStatus, error) {
	p, err := get[Proxies](ctx, c, "/v1/proxies")
	return p.Proxies, err
}

// Nodes returns the nodes that were let into the mesh, sorted by name.
func (c *Client) Nodes(ctx context.Context) ([]NodeStatus, error) {
	n, err := get[Nodes](ctx, c, "/v1/nodes")
	return n.Nodes, err
}

// Registries returns the state of every registry, in the order of the server's file.
func (c *Client) Registries(ctx context.Context) ([]registry.Status, error) {
	r, err := get[Registries](ctx, c, "/v1/registries")
	return r.Registries, err
}

// Accept has the server let go of what is held of a registry, and returns how many endpoints that were.
func (c *Client) Accept(ctx context.Context, registry string) (endpoints int, err error) {
	a, err := post[Accepted](ctx, c, "/v1/registries/"+url.PathEscape(registry)+"/accept", struct{}{})
	return a.Endpoints, err
}

// CreateToken makes a join token.
func (c *Client) CreateToken(ctx context.Context, r TokenRequest) (TokenResponse, error) {
	return post[TokenResponse](ctx, c, "/v1/tokens", r)
}

// IssueNode lets a node in without a token and certifies its key.
func (c *Client) IssueNode(ctx context.Context, node string, r CertificateRequest) (CertificateResponse, error) {
	return post[CertificateResponse](ctx, c, "/v1/nodes/"+url.PathEscape(node)+"/certificate", r)
}

func get[T any](ctx context.Context, c *Client, path string) (T, error) {
	return do[T](ctx, c, http.MethodGet, path, "", nil)
}

func post[T any](ctx context.Context, c *Client, path string, body any) (T, error) {
	return send[T](ctx, c, http.MethodPost, path, body)
}

// send writes. A nil body is none.
func send[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var none T
	token, err := c.token()
	if err != nil {
		return none, err
	}
	var b []byte
	if body != nil {
		if b, err = json.Marshal(body); err != nil {
			return none, err
		}
	}
	return do[T](ctx, c, method, path, token, b)
}

func (c *Client) token() (string, error) {
	switch {
	case c.o.Agent:
		return "", nil
	case c.o.TokenFile == "":
		return "", errors.New("this needs the admin token; set WATTLE_TOKEN_FILE to admin.token in the server's state folder")
	}
	text, err := os.ReadFile(c.o.TokenFile)
	if err != nil {
		return "", fmt.Errorf("admin token: %w; it is in the server's state folder, for the server's user to read", err)
	}
	return strings.TrimSpace(string(text)), nil
}

func do[T any](ctx context.Context, c *Client, method, path, token string, body []byte) (out T, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	if len(body) > 0 {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return out, c.unreachable(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return out, fmt.Errorf("server at %s: read its answer: %w", c.o.Address, err)
	}
	if resp.StatusCode >= http.StatusMultipleChoices {
		return out, c.refused(resp, text)
	}
	if err := json.Unmarshal(text, &out); err != nil {
		return out, fmt.Errorf("server at %s: %s: %w", c.o.Address, path, err)
	}
	return out, nil
}

// unreachable says that the server was not reached.
func (c *Client) unreachable(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // the rest repeats the address
	}
	if c.o.Agent {
		return fmt.Errorf("agent at %s: %w; is it running, and is WATTLE_SOCKET right?", c.o.Address, err)
	}
	return fmt.Errorf("server at %s: %w; is it running, and is WATTLE_ADDR right?", c.o.Address, err)
}

// refused is what the server said in place of an answer.
func (c *Client) refused(resp *http.Response, text []byte) error {
	e := &Error{Status: resp.StatusCode}
	if json.Unmarshal(text, e) != nil || e.Message == "" {
		e.Message = fmt.Sprintf("server at %s: %s", c.o.Address, resp.Status)
	}
	return e
}
