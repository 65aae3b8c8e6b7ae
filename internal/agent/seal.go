package agent

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Credential is the name of the systemd credential that the host's private keys are sealed with, if there is one.
const Credential = "wattle-agent-key"

const (
	sealMagic   = "wattle-sealed 1\n" // begins a file that is sealed
	leastSecret = 32                  // bytes of the credential
)

// seal encrypts files with private keys (AES-256-GCM, bound to the file's name) under a secret that lies elsewhere. nil: they
// are as they are, closed to other users.
type seal struct{ aead cipher.AEAD }

// openSeal takes the secret from the unit's folder of credentials; nil: it has none.
func openSeal(dir string) (*seal, error) {
	if dir == "" {
		return nil, nil
	}
	secret, err := os.ReadFile(filepath.Join(dir, Credential))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("credential %s: %w", Credential, err)
	}
	if len(secret) < leastSecret {
		return nil, fmt.Errorf("credential %s has %d bytes, which is too few: it must have %d random ones at least", Credential, len(secret), leastSecret)
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "wattle agent private keys", 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &seal{aead}, nil
}

// wrap returns what a file holds, sealed if it can be.
func (s *seal) wrap(path string, text []byte) []byte {
	if s == nil {
		return text
	}
	return s.aead.Seal([]byte(sealMagic), nil, text, []byte(filepath.Base(path)))
}

// write replaces a file, sealed if it can be.
func (s *seal) write(path string, text []byte) error { return writeFile(path, s.wrap(path, text)) }

// read returns what was written. What was written without a seal is sealed from now on.
func (s *seal) read(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	secret, sealed := bytes.CutPrefix(text, []byte(sealMagic))
	switch {
	case !sealed && s == nil:
		return text, nil
	case !sealed:
		return text, s.write(path, text)
	case s == nil:
		return nil, fmt.Errorf("%s is sealed with the credential %s, which this process was not given; the unit gets it from systemd", path, Credential)
	}
	if text, err = s.aead.Open(nil, nil, secret, []byte(filepath.Base(path))); err != nil {
		return nil, fmt.Errorf("%s was sealed with another credential %s, or is damaged: %w", path, Credential, err)
	}
	return text, nil
}
