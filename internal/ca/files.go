package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// The files of a CA in its folder.
const (
	rootCert         = "root.pem"
	rootKey          = "root.key"
	intermediateCert = "intermediate.pem"
	intermediateKey  = "intermediate.key"
)

// Open loads the CA from dir, or makes one for trustDomain if there is none. The folder is 0700 and the keys are
// 0600; more open ones are refused. A CA that is broken or belongs to another trust domain is an error, never
// replaced: a new root would lock every host out.
func Open(dir, trustDomain string, now func() time.Time) (*CA, error) {
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := newFolder(dir, trustDomain, now()); err != nil {
			return nil, fmt.Errorf("make a CA in %s: %w", dir, err)
		}
	}
	c, err := load(dir)
	if err != nil {
		return nil, fmt.Errorf("CA in %s: %w; restore the folder from a backup", dir, err)
	}
	if len(c.root.URIs) != 1 || c.root.URIs[0].Host != trustDomain {
		return nil, fmt.Errorf("CA in %s: it was made for the trust domain %v, not %s; the trust domain of a mesh cannot be changed", dir, c.root.URIs, trustDomain)
	}
	c.TrustDomain, c.now = trustDomain, now
	return c, nil
}

// newFolder writes a new CA's folder whole: a crash leaves none, or all of it.
func newFolder(dir, td string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := authority(td, key, nil, nil, now)
	if err != nil {
		return err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	interKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	inter, err := authority(td, interKey, root, key, now)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(dir), ".ca-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for name, write := range map[string]func() ([]byte, error){
		rootCert:         func() ([]byte, error) { return certPEM(der), nil },
		rootKey:          func() ([]byte, error) { return keyPEM(key) },
		intermediateCert: func() ([]byte, error) { return certPEM(inter), nil },
		intermediateKey:  func() ([]byte, error) { return keyPEM(interKey) },
	} {
		text, err := write()
		if err != nil {
			return err
		}
		if err := writeSync(filepath.Join(tmp, name), text); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func load(dir string) (*CA, error) {
	if err := private(dir, 0o077); err != nil {
		return nil, err
	}
	root, err := readCert(filepath.Join(dir, rootCert))
	if err != nil {
		return nil, err
	}
	inter, err := readCert(filepath.Join(dir, intermediateCert))
	if err != nil {
		return nil, err
	}
	if err := inter.CheckSignatureFrom(root); err != nil {
		return nil, fmt.Errorf("%s is not signed by %s: %w", intermediateCert, rootCert, err)
	}
	if err := private(filepath.Join(dir, rootKey), 0o077); err != nil {
		return nil, err
	}
	key, err := readKey(filepath.Join(dir, intermediateKey))
	if err != nil {
		return nil, err
	}
	if pub, ok := inter.PublicKey.(*ecdsa.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, fmt.Errorf("%s is not the key of %s", intermediateKey, intermediateCert)
	}
	return &CA{root: root, intermediate: inter, key: key}, nil
}

// private refuses a file or folder that others may read.
func private(path string, mask fs.FileMode) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if open := info.Mode().Perm() & mask; open != 0 {
		return fmt.Errorf("%s may be read by others (mode %04o): chmod go= %s", path, info.Mode().Perm(), path)
	}
	return nil
}

func readPEM(path, kind string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, fmt.Errorf("%s: not a PEM file with a %s", path, kind)
	}
	return block.Bytes, nil
}

func readCert(path string) (*x509.Certificate, error) {
	der, err := readPEM(path, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

func readKey(path string) (crypto.Signer, error) {
	if err := private(path, 0o077); err != nil {
		return nil, err
	}
	der, err := readPEM(path, "PRIVATE KEY")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s: %T cannot sign", path, key)
	}
	return signer, nil
}

func certPEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// writeSync writes a private file that survives a power cut.
func writeSync(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
