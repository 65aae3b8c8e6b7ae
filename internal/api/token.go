package api

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
)

// tokenPrefix tells join tokens from other secrets, and this form from later ones.
const tokenPrefix = "wattle1."

// Token is a join token in its parts. Its text is a secret.
type Token struct {
	CA     string `json:"ca"`     // SHA-256 of the root's public key (SubjectPublicKeyInfo), in hex: which server to believe
	Secret []byte `json:"secret"` // 256 random bits
	Node   string `json:"node"`   // whom it is for
}

var errToken = errors.New("this is no join token; make one with: wattle token create -node NAME")

// newToken makes a token with a new secret.
func newToken(ca, node string) (Token, error) {
	t := Token{CA: ca, Node: node, Secret: make([]byte, 32)}
	_, err := rand.Read(t.Secret)
	return t, err
}

// ParseToken reads a token's text. White space around it does not matter. Errors do not repeat it.
func ParseToken(text string) (Token, error) {
	body, ok := strings.CutPrefix(strings.TrimSpace(text), tokenPrefix)
	if !ok || len(body) > 1024 {
		return Token{}, errToken
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return Token{}, errToken
	}
	var t Token
	if json.Unmarshal(b, &t) != nil || len(t.CA) != 64 || len(t.Secret) != 32 || t.Node == "" {
		return Token{}, errToken
	}
	return t, nil
}

// Text returns the form that ParseToken reads.
func (t Token) Text() string {
	b, err := json.Marshal(t)
	if err != nil {
		return "" // two strings and bytes always encode
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// String keeps the secret out of logs.
func (t Token) String() string { return "join token for " + t.Node }
