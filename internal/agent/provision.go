package agent

import (
	"fmt"
	"os"
	"path/filepath"
)

// Provision makes dir the state_dir of an agent that has joined: a key made here, the node certificate that certify
// gets for its signing request, and the roots to trust. An existing key is not replaced.
func Provision(dir string, certify func(csr []byte) (chain, roots [][]byte, err error)) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, nodeKeyFile)); err == nil {
		return fmt.Errorf("%s has a %s already; remove the folder's files or choose another folder", dir, nodeKeyFile)
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	csr, err := request(key)
	if err != nil {
		return err
	}
	chain, roots, err := certify(csr)
	if err != nil {
		return err
	}
	text, err := keyPEM(key)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		text []byte
	}{{rootsFile, certsPEM(roots)}, {nodeCertFile, certsPEM(chain)}, {nodeKeyFile, text}} {
		if err := writeFile(filepath.Join(dir, f.name), f.text); err != nil {
			return err
		}
	}
	return nil
}
