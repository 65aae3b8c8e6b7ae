package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"

	"github.com/wattle-mesh/wattle/internal/xds"
)

// ClientOptions say where the HTTP API is.
type ClientOptions struct {
	Address   string // "127.0.0.1:7500" or "unix:/path"
	TokenFile string // the server's admin.token; needed for writes only
}

// Client calls the HTTP API. Safe for concurrent use.
type Client struct {
	o    ClientOptions
	http *http.Client
	base string
}

// NewClient makes a client; it connects when it is used.
func NewClient(o ClientOptions) *Client {
	c := &Client{o: o, http: &http.Client{}, base: "http://" + o.Address}
	if path, ok := strings.CutPrefix(o.Address, "unix:"); ok {
		c.base = "http://wattle"
		c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}
	}
	return c
}

// Status asks what the server says of itself.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.get(ctx, "/v1/status", &s)
}

// Proxies asks for the state of every proxy.
func (c *Client) Proxies(ctx context.Context) ([]xds.ProxyStatus, error) {
	var p Proxies
	return p.Proxies, c.get(ctx, "/v1/proxies", &p)
}

// CreateToken makes a join token.
func (c *Client) CreateToken(ctx context.Context, req TokenRequest) (t TokenResponse, err error) {
	return t, c.post(ctx, "/v1/tokens", req, &t)
}

// IssueNode has a node's key certified.
func (c *Client) IssueNode(ctx context.Context, node string, req CertificateRequest) (r CertificateResponse, err error) {
	return r, c.post(ctx, "/v1/nodes/"+node+"/certificate", req, &r)
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return err
	}
	return c.do(req, into)
}

func (c *Client) post(ctx context.Context, path string, body, into any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	if c.o.TokenFile == "" {
		return errors.New("this needs the admin token: set WATTLE_TOKEN_FILE to admin.token in the server's state_dir")
	}
	token, err := os.ReadFile(c.o.TokenFile)
	if err != nil {
		return fmt.Errorf("read the admin token: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	return c.do(req, into)
}

func (c *Client) do(req *http.Request, into any) error {
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("server at %s: %w; is wattle server running, and is WATTLE_ADDR its http address?", c.o.Address, errors.Unwrap(err))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("server at %s: %w", c.o.Address, err)
	}
	if resp.StatusCode != http.StatusOK {
		var f Failure
		if json.Unmarshal(text, &f) != nil || f.Error == "" {
			return fmt.Errorf("server at %s: %s", c.o.Address, resp.Status)
		}
		if f.Remedy != "" {
			return fmt.Errorf("%s; %s", f.Error, f.Remedy)
		}
		return errors.New(f.Error)
	}
	return json.Unmarshal(text, into)
}
