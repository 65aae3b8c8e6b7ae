package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/gob"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/wattle-mesh/wattle/internal/ca"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

const trustDomain = "mesh.local"

// serverName is what clients expect in the server's certificate.
const serverName = "bench.test"

// papers are what the clients of one run need to connect: the roots and a certificate for each node.
type papers struct {
	Roots [][]byte
	Nodes []paper
}

type paper struct {
	Name  string
	Chain [][]byte
	Key   []byte
}

func nodeName(i int) string { return fmt.Sprintf("h%04d", i) }

func openCA(dir string) (*ca.CA, error) {
	return ca.Open(filepath.Join(dir, "ca"), trustDomain, time.Now)
}

// issue certifies n nodes as the server's CA does, and keeps the result for the clients.
func issue(dir string, n int) error {
	authority, err := openCA(dir)
	if err != nil {
		return err
	}
	p := papers{Roots: authority.Roots()}
	for i := range n {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return err
		}
		csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			return err
		}
		leaf, err := authority.Sign(csr, spiffe.ForNode(trustDomain, nodeName(i)), nodeName(i))
		if err != nil {
			return err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return err
		}
		p.Nodes = append(p.Nodes, paper{nodeName(i), leaf.Chain, der})
	}
	f, err := os.OpenFile(filepath.Join(dir, "papers"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return gob.NewEncoder(f).Encode(p)
}

// read gives the clients what issue kept.
func (p *papers) read(dir string) error {
	f, err := os.Open(filepath.Join(dir, "papers"))
	if err != nil {
		return err
	}
	defer f.Close()
	return gob.NewDecoder(f).Decode(p)
}

func (p *papers) pool() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, der := range p.Roots {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		pool.AddCert(root)
	}
	return pool, nil
}

func (p paper) certificate() (tls.Certificate, error) {
	key, err := x509.ParsePKCS8PrivateKey(p.Key)
	return tls.Certificate{Certificate: p.Chain, PrivateKey: key}, err
}
