package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/wattle-mesh/wattle/internal/seal"
	"github.com/wattle-mesh/wattle/internal/spiffe"
)

// The files of a CA in its folder. Each has a certificate and its key, so that one rename replaces both.
const (
	rootFile         = "root.pem"
	intermediateFile = "intermediate.pem"
)

// remedy is what helps a CA that is not whole.
const remedy = "restore the folder from a backup"

// Open loads the CA from dir, or makes one for trustDomain if there is none. An empty trustDomain stands for the
// one that the CA was made for. The folder is 0700 and the files are 0600; more open ones are refused. A CA that is
// broken, or was made for another trust domain, is an error, never replaced: a new root would lock every host
// out. Only one process at a time may open a folder; the store's lock sees to it.
func Open(dir, trustDomain string, now func() time.Time) (*CA, error) {
	return OpenSealed(dir, trustDomain, nil, now)
}

// OpenSealed is Open where keys are sealed on the disk. Files that are not sealed yet are from then on; nil: they stay as they are.
func OpenSealed(dir, trustDomain string, s *seal.Seal, now func() time.Time) (*CA, error) {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := spiffe.CheckTrustDomain(trustDomain); err != nil {
			return nil, fmt.Errorf("make a CA in %s: %w", dir, err)
		}
		if err := newFolder(dir, trustDomain, s, now()); err != nil {
			return nil, fmt.Errorf("make a CA in %s: %w", dir, err)
		}
	}
	c, err := load(dir, s, now)
	if err != nil {
		return nil, fmt.Errorf("CA in %s: %w", dir, err)
	}
	if trustDomain != "" && c.TrustDomain != trustDomain {
		return nil, fmt.Errorf("CA in %s: it was made for the trust domain %s, not %s; the trust domain of a mesh cannot be changed",
			dir, c.TrustDomain, trustDomain)
	}
	return c, nil
}

// newFolder writes a new CA's folder whole: a crash leaves none, or all of it.
func newFolder(dir, td string, s *seal.Seal, now time.Time) error {
	root, err := newRoot(td, now)
	if err != nil {
		return err
	}
	intermediate, err := newIntermediate(td, now, root)
	if err != nil {
		return err
	}
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(parent, ".ca-") // 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := root.write(filepath.Join(tmp, rootFile), s); err != nil {
		return err
	}
	if err := intermediate.write(filepath.Join(tmp, intermediateFile), s); err != nil {
		return err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return syncDir(parent)
}

func load(dir string, s *seal.Seal, now func() time.Time) (*CA, error) {
	if err := private(dir); err != nil {
		return nil, err
	}
	root, err := read(filepath.Join(dir, rootFile), s)
	if err != nil {
		return nil, err
	}
	if len(root.cert.URIs) != 1 || root.cert.URIs[0].Scheme != "spiffe" || !root.cert.IsCA {
		return nil, fmt.Errorf("%s is not a root made by wattle; %s", rootFile, remedy)
	}
	td := root.cert.URIs[0].Host
	intermediate, err := read(filepath.Join(dir, intermediateFile), s)
	if err != nil {
		return nil, err
	}
	if err := intermediate.cert.CheckSignatureFrom(root.cert); err != nil {
		return nil, fmt.Errorf("%s is not signed by %s: %w; %s", intermediateFile, rootFile, err, remedy)
	}
	if left := intermediate.cert.NotAfter.Sub(now()); left < IntermediateLife/2 {
		if intermediate, err = newIntermediate(td, now(), root); err != nil {
			return nil, err
		}
		if err := intermediate.write(filepath.Join(dir, intermediateFile), s); err != nil {
			return nil, fmt.Errorf("renew %s: %w", intermediateFile, err)
		}
	}
	return &CA{TrustDomain: td, root: root.cert, intermediate: intermediate.cert, key: intermediate.key, workloadLife: WorkloadLife, now: now}, nil
}

// private refuses a file or folder that others than its owner may use.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%w; %s", err, remedy)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s is open to others (mode %04o); see who may have read it, then chmod go= it", path, mode)
	}
	return nil
}

// read reads a certificate and its key, and seals the file if it is not yet.
func read(path string, s *seal.Seal) (authority, error) {
	if err := private(path); err != nil {
		return authority{}, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return authority{}, fmt.Errorf("%w; %s", err, remedy)
	}
	plain, stale, err := s.Unwrap(path, text)
	if err != nil {
		return authority{}, err
	}
	a, err := parse(plain)
	if err != nil {
		return authority{}, fmt.Errorf("%s: %w; %s", path, err, remedy)
	}
	if stale {
		if err := a.write(path, s); err != nil {
			return authority{}, fmt.Errorf("seal %s: %w", path, err)
		}
	}
	return a, nil
}

func parse(text []byte) (authority, error) {
	first, rest := pem.Decode(text)
	if first == nil || first.Type != "CERTIFICATE" {
		return authority{}, errors.New("no certificate in it")
	}
	second, _ := pem.Decode(rest)
	if second == nil || second.Type != "PRIVATE KEY" {
		return authority{}, errors.New("no key in it")
	}
	cert, err := x509.ParseCertificate(first.Bytes)
	if err != nil {
		return authority{}, err
	}
	key, err := x509.ParsePKCS8PrivateKey(second.Bytes)
	if err != nil {
		return authority{}, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return authority{}, fmt.Errorf("a %T cannot sign", key)
	}
	if public, ok := cert.PublicKey.(*ecdsa.PublicKey); !ok || !public.Equal(signer.Public()) {
		return authority{}, errors.New("the key is not the certificate's")
	}
	return authority{cert, signer}, nil
}

// write writes certificate and key into a private file, sealed if s can, whole or not at all.
func (a authority) write(path string, s *seal.Seal) error {
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, b := range []*pem.Block{{Type: "CERTIFICATE", Bytes: a.cert.Raw}, {Type: "PRIVATE KEY", Bytes: key}} {
		if err := pem.Encode(&text, b); err != nil {
			return err
		}
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".pem-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(s.Wrap(path, text.Bytes()))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
