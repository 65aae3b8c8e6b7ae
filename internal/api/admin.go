package api

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// AdminToken returns the token that writes need: 256 random bits in a file, made at the first start, 0600. A file
// that others may read is an error.
func AdminToken(file string) (string, error) {
	if err := makeAdminToken(file); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("admin token: %w", err)
	}
	info, err := os.Stat(file)
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return "", fmt.Errorf("admin token: %s is open to others (mode %04o); remove it, and the next start makes another", file, mode)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	token := strings.TrimSpace(string(text))
	if len(token) < 32 {
		return "", fmt.Errorf("admin token: %s holds no token; remove it, and the next start makes another", file)
	}
	return token, nil
}

// makeAdminToken writes a new token, whole or not at all. It fails with fs.ErrExist if there is one.
func makeAdminToken(file string) error {
	if _, err := os.Lstat(file); err == nil {
		return fs.ErrExist
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".admin-") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(hex.EncodeToString(secret) + "\n")
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Link(f.Name(), file) // unlike a rename, it never replaces another's
}
