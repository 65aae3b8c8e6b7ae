package registry

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"
)

// maxToken bounds the size of a token file, in bytes.
const maxToken = 16 << 10

// tokenCheck is how long a token is used before its file is looked at again.
const tokenCheck = time.Second

// TokenFile is a secret of one line in a file that is replaced from time to time. Its methods may be called from any
// goroutine.
type TokenFile struct {
	Path string // of the file; empty: there is no token

	mu      sync.Mutex
	secret  string
	read    os.FileInfo // the file as it was when it was read
	checked time.Time
}

// Current returns the token, read anew if its file has changed, which is looked for once a second. Empty: there is none.
func (t *TokenFile) Current() (string, error) {
	if t.Path == "" {
		return "", nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.secret != "" && time.Since(t.checked) < tokenCheck {
		return t.secret, nil
	}
	info, err := os.Stat(t.Path)
	if err != nil {
		return "", fmt.Errorf("token_file: %w", err)
	}
	t.checked = time.Now()
	if t.secret != "" && os.SameFile(info, t.read) && info.ModTime().Equal(t.read.ModTime()) && info.Size() == t.read.Size() {
		return t.secret, nil
	}
	if info.Size() > maxToken {
		return "", fmt.Errorf("token_file: %s has %d bytes, a token at most %d", t.Path, info.Size(), maxToken)
	}
	text, err := os.ReadFile(t.Path)
	if err != nil {
		return "", fmt.Errorf("token_file: %w", err)
	}
	secret := strings.TrimSpace(string(text))
	switch {
	case secret == "":
		return "", fmt.Errorf("token_file: %s is empty", t.Path)
	case strings.ContainsFunc(secret, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("token_file: %s holds no token: it has blanks or control characters in it", t.Path)
	}
	t.secret, t.read = secret, info
	return secret, nil
}

// Refused makes the next call of Current read the file, whatever it looks like: the token was not accepted.
func (t *TokenFile) Refused() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.secret = ""
}
