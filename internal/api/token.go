package api

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
)

// tokenPrefix marks a join token, so that secret scanners and people know one.
const tokenPrefix = "wattle1."

// JoinToken is what a join token says: who may use it, once, and which server it is for.
type JoinToken struct {
	Node   string `json:"n"`
	Pin    string `json:"p"` // SHA-256 of the public key of the CA's root, in hex
	Secret string `json:"s"`
}

// newJoinToken makes a token with a fresh secret of 128 bits at least.
func newJoinToken(node, pin string) JoinToken {
	return JoinToken{Node: node, Pin: pin, Secret: rand.Text()}
}

// String returns the text that people carry to the host.
func (t JoinToken) String() string {
	text, _ := json.Marshal(t) // strings always encode
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(text)
}

// ParseToken reads a join token.
func ParseToken(s string) (JoinToken, error) {
	var t JoinToken
	body, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok {
		return t, errors.New("not a join token: it begins with " + tokenPrefix + "; make one with wattle token create")
	}
	text, err := base64.RawURLEncoding.DecodeString(body)
	if err == nil {
		err = json.Unmarshal(text, &t)
	}
	if err != nil || t.Node == "" || t.Pin == "" || t.Secret == "" {
		return t, errors.New("the join token is damaged; copy it again or make a new one with wattle token create")
	}
	return t, nil
}
