package agent

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// The files of a host's identity in the state folder. wattle ca issue writes the same ones.
const (
	nodeKeyFile  = "node.key"
	nodeCertFile = "node.pem"
	rootsFile    = "roots.pem"
)

// node is this host's identity: a key that is made here and never leaves, and the certificate that the server gave
// for it. Safe for concurrent use once joined.
type node struct {
	log  *slog.Logger
	dir  string
	disk *disk
	now  func() time.Time
	name string // that the configuration demands; empty: any
	key  crypto.Signer
	held value[*credential]
}

// credential is a node certificate and what it was issued under. Immutable.
type credential struct {
	id     spiffe.ID
	cert   *tls.Certificate
	roots  *roots
	issued time.Time // by this host's clock
}

func (c *credential) signer() crypto.Signer { return c.cert.PrivateKey.(crypto.Signer) } // parseChain put it there

// openNode loads the identity from the state folder, or makes a key if there is none. Not joined yet: held is nil.
func openNode(log *slog.Logger, d *disk, name string, now func() time.Time) (*node, error) {
	n := &node{log: log, dir: d.dir, disk: d, name: name, now: now}
	if err := n.openKey(); err != nil {
		return nil, fmt.Errorf("the host's key: %w", err)
	}
	text, err := os.ReadFile(n.path(nodeCertFile))
	if errors.Is(err, fs.ErrNotExist) {
		return n, nil
	}
	if err != nil {
		return nil, err
	}
	rootText, err := os.ReadFile(n.path(rootsFile))
	if err != nil {
		return nil, fmt.Errorf("%w; it belongs to %s, restore it or remove both and join again", err, nodeCertFile)
	}
	chain, _, err := parsePEM(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.path(nodeCertFile), err)
	}
	rootDER, _, err := parsePEM(rootText)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.path(rootsFile), err)
	}
	c, err := n.credential(chain, rootDER)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove %s and %s to join again", n.path(nodeCertFile), err, nodeCertFile, rootsFile)
	}
	c.issued = c.cert.Leaf.NotBefore
	n.held.Set(c)
	return n, nil
}

func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

func (n *node) openKey() error {
	path := n.path(nodeKeyFile)
	if err := private(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w, or remove it and join again", err)
	}
	text, err := n.disk.readKey(path) // which closes one that it seals
	if errors.Is(err, fs.ErrNotExist) {
		if n.key, err = newKey(); err != nil {
			return err
		}
		if text, err = keyPEM(n.key); err != nil {
			return err
		}
		return writeFile(path, n.disk.seal.Wrap(path, text))
	}
	if err != nil {
		return fmt.Errorf("%w; restore it, or remove it and join again", err)
	}
	if _, n.key, err = parsePEM(text); err != nil || n.key == nil {
		return fmt.Errorf("%s is not a PEM file with a private key (%v); restore it, or remove it and join again", path, err)
	}
	return nil
}

// credential checks what a server or a file gave: a chain for our key, of a node, of the name that is demanded. An
// expired one passes: the server decides whether it may still be renewed.
func (n *node) credential(chain, rootDER [][]byte) (*credential, error) {
	cert, err := parseChain(chain, n.key)
	if err != nil {
		return nil, err
	}
	c := &credential{cert: cert, issued: n.now()}
	if c.id, err = spiffe.FromCertificate(cert.Leaf); err != nil {
		return nil, err
	}
	if c.id.Kind != spiffe.Node {
		return nil, fmt.Errorf("the certificate is that of %s, not of a node", c.id)
	}
	if n.name != "" && c.id.Name != n.name {
		return nil, fmt.Errorf("the certificate is for node %s, but the configuration says node = %q", c.id.Name, n.name)
	}
	if c.roots, err = newRoots(rootDER, n.now); err != nil {
		return nil, err
	}
	return c, nil
}

// adopt takes a signed certificate into force and keeps it on disk, as soon as that can be written.
func (n *node) adopt(resp *apipb.SignResponse) error {
	c, err := n.credential(resp.GetChain(), resp.GetRoots())
	if err != nil {
		return err
	}
	if old := n.held.Now(); old == nil || !slices.EqualFunc(old.roots.der, c.roots.der, slices.Equal) {
		n.disk.write(n.path(rootsFile), certsPEM(resp.GetRoots()))
	}
	n.disk.write(n.path(nodeCertFile), certsPEM(resp.GetChain()))
	n.held.Set(c)
	return nil
}

// renew keeps the node certificate fresh until ctx is done.
func (n *node) renew(ctx context.Context, sign signer) error {
	r := renewal{log: n.log, now: n.now, what: "node certificate", sign: func(ctx context.Context) (time.Time, time.Time, error) {
		csr, err := request(n.key)
		if err != nil {
			return time.Time{}, time.Time{}, err
		}
		resp, err := sign(ctx, &apipb.SignRequest{Csr: csr})
		if err == nil {
			err = n.adopt(resp)
		}
		c := n.held.Now()
		return c.issued, c.cert.Leaf.NotAfter, err
	}}
	r.hopeless = func(err error) bool { return n.expired() != nil && refused(err) }
	c := n.held.Now()
	r.issued, r.expires = c.issued, c.cert.Leaf.NotAfter
	return r.run(ctx)
}

// tls is how this host calls the servers once it has joined.
func (n *node) tls() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return n.held.Now().cert, nil
		},
		InsecureSkipVerify: true, // VerifyConnection does it: a server is known by its identity, not its name
		VerifyConnection: func(s tls.ConnectionState) error {
			c := n.held.Now()
			return c.roots.verifyServer(s, c.id.TrustDomain)
		},
	}
}

// joinTLS is how this host calls the server that made the token with this pin: with a certificate that it signed
// itself, so that the server sees that the connection and the signing request have one key.
func (n *node) joinTLS(pin string) (*tls.Config, error) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: n.now().Add(-time.Hour), NotAfter: n.now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, n.key.Public(), n.key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: n.key}},
		InsecureSkipVerify: true, // VerifyConnection does it, from the pinned root
		VerifyConnection: func(s tls.ConnectionState) error {
			r, td, err := pinned(s.PeerCertificates, pin, n.now)
			if err != nil {
				return err
			}
			return r.verifyServer(s, td)
		},
	}, nil
}

// token returns the text of the join token.
func token(inline, file string) (string, error) {
	if inline == "" && file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", fmt.Errorf("the join token: %w; make one with wattle token create", err)
		}
		if err := private(file); err != nil {
			return "", fmt.Errorf("the join token: %w", err)
		}
		inline = string(text)
	}
	return strings.TrimSpace(inline), nil
}
