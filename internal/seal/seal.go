// Package seal encrypts files with private keys under a secret that systemd keeps elsewhere and gives to the unit as a
// credential. In comes the text of a file, out goes what to write in its place.
package seal

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

const (
	magic       = "wattle-sealed 1\n" // begins a file that is sealed
	leastSecret = 32                  // bytes of the credential
)

// Seal encrypts files (AES-256-GCM, bound to the file's name). Without a credential, and so the zero value and nil, it leaves
// them as they are. Safe for concurrent use.
type Seal struct {
	name string // of the credential
	aead cipher.AEAD
}

// Open takes the credential of that name from the unit's folder of credentials, if that is not empty and has one. Keys for different
// purposes are different, even under one secret.
func Open(dir, name, purpose string) (*Seal, error) {
	s := &Seal{name: name}
	if dir == "" {
		return s, nil
	}
	secret, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("credential %s: %w", name, err)
	}
	if len(secret) < leastSecret {
		return nil, fmt.Errorf("credential %s has %d bytes, which is too few: it must have %d random ones at least", name, len(secret), leastSecret)
	}
	key, err := hkdf.Key(sha256.New, secret, nil, purpose, 32)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	s.aead, err = cipher.NewGCMWithRandomNonce(block)
	return s, err
}

// Wrap returns what to write into the file at path, sealed if there is a credential.
func (s *Seal) Wrap(path string, text []byte) []byte {
	if s == nil || s.aead == nil {
		return text
	}
	return s.aead.Seal([]byte(magic), nil, text, []byte(filepath.Base(path)))
}

// Unwrap returns what was wrapped for path, and whether it is in the file otherwise than Wrap would write it now: it was not sealed yet.
// A sealed file and no credential, or another one, is an error.
func (s *Seal) Unwrap(path string, text []byte) (plain []byte, stale bool, err error) {
	secret, sealed := bytes.CutPrefix(text, []byte(magic))
	switch {
	case !sealed:
		return text, s != nil && s.aead != nil, nil
	case s == nil || s.aead == nil:
		return nil, false, fmt.Errorf("%s is sealed with the credential %s, which this process was not given; the unit gets it from systemd", path, s.credential())
	}
	plain, err = s.aead.Open(nil, nil, secret, []byte(filepath.Base(path)))
	if err != nil {
		return nil, false, fmt.Errorf("%s was sealed with another credential %s, or is damaged: %w", path, s.name, err)
	}
	return plain, false, nil
}

func (s *Seal) credential() string {
	if s == nil {
		return "of its unit"
	}
	return s.name
}
