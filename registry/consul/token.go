package consul

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// maxToken bounds the size of a token file; Consul's tokens have 36 bytes.
const maxToken = 4096

// tokenCheck is how long a token is used before its file is looked at again.
const tokenCheck = time.Second

// token is an ACL token in a file that is replaced from time to time.
type token struct {
	path string // empty: there is no token

	mu      sync.Mutex
	secret  string
	read    os.FileInfo // the file as it was when it was read
	checked time.Time
}

// current returns the token, read anew if its file has changed.
func (t *token) current() (string, error) {
	if t.path == "" {
		return "", nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.secret != "" && time.Since(t.checked) < tokenCheck {
		return t.secret, nil
	}
	info, err := os.Stat(t.path)
	if err != nil {
		return "", fmt.Errorf("token_file: %w", err)
	}
	t.checked = time.Now()
	if t.secret != "" && os.SameFile(info, t.read) && info.ModTime().Equal(t.read.ModTime()) && info.Size() == t.read.Size() {
		return t.secret, nil
	}
	if info.Size() > maxToken {
		return "", fmt.Errorf("token_file: %s has %d bytes, a token at most %d", t.path, info.Size(), maxToken)
	}
	text, err := os.ReadFile(t.path)
	if err != nil {
		return "", fmt.Errorf("token_file: %w", err)
	}
	secret := strings.TrimSpace(string(text))
	switch {
	case secret == "":
		return "", fmt.Errorf("token_file: %s is empty", t.path)
	case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("token_file: %s holds no token: it has blanks or control characters in it", t.path)
	}
	t.secret, t.read = secret, info
	return secret, nil
}

// refused makes the next request read the file, whatever it looks like: Consul did not accept the token.
func (t *token) refused() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.secret = ""
}
