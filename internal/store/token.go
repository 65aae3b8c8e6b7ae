package store

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"time"

	"go.etcd.io/bbolt"
)

// ErrToken is a token that is not known, not for this node, used or too old. Which of them is nobody's business.
var ErrToken = errors.New("the join token is not valid: it was used, has expired, or is for another node")

// Token is a join token that was handed out. Its secret is kept as a hash only.
type Token struct {
	Hash    [sha256.Size]byte `json:"hash"` // of the secret
	Node    string            `json:"node"`
	Grant   Grant             `json:"grant"`
	Expires time.Time         `json:"expires"`
}

// Hash returns what is kept of a secret.
func Hash(secret []byte) [sha256.Size]byte { return sha256.Sum256(secret) }

// AddToken keeps a token, and drops those that expired before now.
func (s *Store) AddToken(t Token, now time.Time) error {
	return s.update(func(tx *bbolt.Tx) error {
		if err := dropExpired(tx, now); err != nil {
			return err
		}
		return put(tx, tokenBucket, t.Hash[:], t)
	})
}

func dropExpired(tx *bbolt.Tx, now time.Time) error {
	b := tx.Bucket([]byte(tokenBucket))
	var old [][]byte
	err := b.ForEach(func(k, v []byte) error {
		var t Token
		if json.Unmarshal(v, &t) != nil || !now.Before(t.Expires) {
			old = append(old, append([]byte(nil), k...))
		}
		return nil
	})
	for _, k := range old {
		err = errors.Join(err, b.Delete(k))
	}
	return err
}

// Redeem uses a token up: of several that try, one succeeds. The node then exists, with the token's grant; a token
// without a grant leaves the node the one it has. Errors match ErrToken, and leave the token as it was.
func (s *Store) Redeem(secret []byte, node string, now time.Time) error {
	hash := Hash(secret)
	return s.update(func(tx *bbolt.Tx) error {
		t, ok, err := get[Token](tx, tokenBucket, hash[:])
		if err != nil {
			return err
		}
		if !ok || subtle.ConstantTimeCompare(hash[:], t.Hash[:]) != 1 || t.Node != node || !now.Before(t.Expires) {
			return ErrToken
		}
		if err := tx.Bucket([]byte(tokenBucket)).Delete(hash[:]); err != nil {
			return err
		}
		return admit(tx, node, t.Grant, now)
	})
}
