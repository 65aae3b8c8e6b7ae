package agent

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

// writeFile replaces a private file so that a crash or a power cut leaves the old one or the new one, whole.
func writeFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // made 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// private refuses a file or folder that others than its owner may use.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s is open to others (mode %04o): chmod go= %s", path, mode, path)
	}
	return nil
}

// passable makes a folder that other users may pass through, to the socket that is theirs to use, but not list. What else
// is in it is closed to them by itself. A folder that is there stays as somebody made it: closed is that user's choice, and
// reports false.
func passable(dir string) (bool, error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return true, errors.Join(os.MkdirAll(dir, 0o711), os.Chmod(dir, 0o711)) // whatever the umask
	}
	if err != nil {
		return false, err
	}
	return info.Mode().Perm()&0o001 != 0, nil
}

// lockFile is in run_dir.
const lockFile = "agent.lock"

var errTaken = errors.New("another agent runs")

// lock takes a folder for this process: a second agent on it would fight over its sockets. It is let go when the
// file is closed, by the kernel at the latest.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w with run_dir %s; end it, or give this one a run_dir of its own", errTaken, dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

func newKey() (crypto.Signer, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func keyPEM(key crypto.Signer) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}), nil
}

func certsPEM(chain [][]byte) []byte {
	var out []byte
	for _, der := range chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der})...)
	}
	return out
}

// parsePEM returns the certificates and the key in text; the key is nil if there is none.
func parsePEM(text []byte) (chain [][]byte, key crypto.Signer, err error) {
	for {
		var b *pem.Block
		if b, text = pem.Decode(text); b == nil {
			return chain, key, nil
		}
		switch b.Type {
		case certificateBlock:
			chain = append(chain, b.Bytes)
		case keyBlock:
			k, err := x509.ParsePKCS8PrivateKey(b.Bytes)
			if err != nil {
				return nil, nil, err
			}
			s, ok := k.(crypto.Signer)
			if !ok {
				return nil, nil, fmt.Errorf("a %T cannot sign", k)
			}
			key = s
		}
	}
}

// parseChain makes a certificate that TLS can use from a chain and the leaf's key, which must belong together.
func parseChain(chain [][]byte, key crypto.Signer) (*tls.Certificate, error) {
	if len(chain) == 0 {
		return nil, errors.New("no certificate")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is for another key")
	}
	return &tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: leaf}, nil
}

// request makes a signing request for key. The server takes nothing but the key from it.
func request(key crypto.Signer) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}
