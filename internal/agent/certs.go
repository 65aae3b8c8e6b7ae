package agent

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

// leaf is the certificate of a workload or gateway of this host, with its key. Immutable.
type leaf struct {
	identity        string
	chain, key      []byte // PEM
	issued, expires time.Time
}

// holding is what the host has of one identity: a leaf, or the reason why there is none yet.
type holding struct {
	leaf    *leaf
	waiting string
}

// holdings is what the host has of each identity of its plan, by SPIFFE id. One that has not been tried yet is
// missing. Immutable.
type holdings map[string]holding

// certs gets and renews a certificate for every identity of the plan. Each has a key of its own, made here, and is
// kept on disk, so that an agent that starts again serves at once what Envoy has.
type certs struct {
	log  *slog.Logger
	dir  string
	disk *disk
	node *node
	sign signer
	held value[holdings]

	mu sync.Mutex // for read-modify-write of held
}

// run follows the plan until ctx is done. Each identity is on its own: one that the server refuses holds up none of
// the others.
func (c *certs) run(ctx context.Context, plan *value[*planpb.HostPlan]) error {
	type task struct {
		cancel context.CancelFunc
		done   chan struct{}
	}
	tasks := map[string]task{}
	stop := func(t task) { t.cancel(); <-t.done }
	defer func() {
		for _, t := range tasks {
			stop(t)
		}
	}()
	for {
		p, changed := plan.Load()
		want := identities(p)
		for id, t := range tasks {
			if !want[id] {
				stop(t)
				delete(tasks, id)
				c.forget(id)
			}
		}
		for id := range want {
			if _, ok := tasks[id]; !ok {
				tctx, cancel := context.WithCancel(ctx)
				t := task{cancel, make(chan struct{})}
				tasks[id] = t
				go func() {
					defer close(t.done)
					c.keep(tctx, id)
				}()
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// identities lists the SPIFFE ids that a plan needs certificates for.
func identities(p *planpb.HostPlan) map[string]bool {
	out := map[string]bool{}
	for _, w := range p.GetWorkloads() {
		out[w.GetIdentity()] = true
	}
	for _, x := range p.GetProxies() {
		for _, id := range x.GetIdentities() {
			out[id] = true
		}
	}
	return out
}

// keep has and renews the certificate of one identity until ctx is done.
func (c *certs) keep(ctx context.Context, id string) {
	r := renewal{log: c.log.With("identity", id), now: c.node.now, what: "workload certificate"}
	if l, err := c.load(id); err == nil {
		c.set(id, holding{leaf: l})
		r.issued, r.expires = l.issued, l.expires
	} else if !errors.Is(err, fs.ErrNotExist) {
		r.log.Warn("the certificate on disk is not used", "error", err)
	}
	r.sign = func(ctx context.Context) (time.Time, time.Time, error) {
		l, err := c.obtain(ctx, id)
		if err != nil {
			return time.Time{}, time.Time{}, err
		}
		c.set(id, holding{leaf: l})
		return l.issued, l.expires, nil
	}
	r.failed = func(err error) {
		if h := c.held.Now()[id]; h.leaf == nil || c.node.now().After(h.leaf.expires) {
			c.set(id, holding{waiting: status.Convert(err).Message()})
		}
	}
	_ = r.run(ctx)
}

// set publishes what the host has of an identity.
func (c *certs) set(id string, h holding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.held.Now()
	if old[id] == h {
		return
	}
	if h.leaf == nil && old[id].waiting == "" {
		c.log.Warn("waiting for certificate", "identity", id, "reason", h.waiting)
	}
	next := maps.Clone(old)
	if next == nil {
		next = holdings{}
	}
	next[id] = h
	c.held.Set(next)
}

// forget drops an identity that the host has no more, its key too.
func (c *certs) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := maps.Clone(c.held.Now())
	delete(next, id)
	c.held.Set(next)
	if err := c.disk.remove(c.path(id)); err != nil {
		c.log.Error("remove a certificate that is not needed any more", "identity", id, "error", err)
	}
}

func (c *certs) path(id string) string {
	return filepath.Join(c.dir, url.PathEscape(strings.TrimPrefix(id, "spiffe://"))+".pem")
}

// obtain has a new key certified.
func (c *certs) obtain(ctx context.Context, id string) (*leaf, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	csr, err := request(key)
	if err != nil {
		return nil, err
	}
	resp, err := c.sign(ctx, &apipb.SignRequest{Identity: id, Csr: csr})
	if err != nil {
		return nil, err
	}
	l, err := c.check(id, resp.GetChain(), key)
	if err != nil {
		return nil, fmt.Errorf("the server's answer: %w", err)
	}
	l.issued = c.node.now()
	c.disk.writeKey(c.path(id), slices.Concat(l.key, l.chain))
	return l, nil
}

// load returns the certificate that an earlier agent got, if it is still good.
func (c *certs) load(id string) (*leaf, error) {
	text, err := c.disk.readKey(c.path(id))
	if err != nil {
		return nil, err
	}
	chain, key, err := parsePEM(text)
	if err != nil {
		return nil, err
	}
	if key == nil {
		return nil, errors.New("no key")
	}
	l, err := c.check(id, chain, key)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// check makes a leaf of a chain that is valid now, for this identity and key, under the roots of this host.
func (c *certs) check(id string, chain [][]byte, key crypto.Signer) (*leaf, error) {
	cert, err := parseChain(chain, key)
	if err != nil {
		return nil, err
	}
	parsed := []*x509.Certificate{cert.Leaf}
	for _, der := range chain[1:] {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		parsed = append(parsed, x)
	}
	got, err := c.node.held.Now().roots.verify(parsed, x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	if got.String() != id {
		return nil, fmt.Errorf("the certificate is that of %s", got)
	}
	text, err := keyPEM(key)
	if err != nil {
		return nil, err
	}
	return &leaf{identity: id, chain: certsPEM(chain), key: text, issued: cert.Leaf.NotBefore, expires: cert.Leaf.NotAfter}, nil
}
