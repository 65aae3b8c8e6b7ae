// Package store is what the server keeps on disk besides keys: join tokens, grants, nodes, what agents
// registered and reported, the numbers of revisions, allotted mesh ports. One bbolt file; every method is one
// transaction.
package store

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// lockTimeout is how long Open waits for another process to let go of the file.
const lockTimeout = 2 * time.Second

// The buckets. Keys are names, or what a comment says; values are JSON.
const (
	tokens    = "tokens" // SHA-256 of the secret
	nodes     = "nodes"
	reports   = "reports" // by node
	meta      = "meta"
	revisions = "revision"
	ports     = "ports"
	storeID   = "id"
)

// ErrToken is why a join token is not accepted. It does not say more: a guesser learns nothing.
var ErrToken = errors.New("the join token is unknown, used, expired or for another node")

// Store is the server's state. Safe for concurrent use.
type Store struct {
	db *bolt.DB
}

// Open opens or makes wattle.db in dir. It fails if another server has it open.
func Open(dir string) (*Store, error) {
	path := filepath.Join(dir, "wattle.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout})
	if errors.Is(err, bolt.ErrTimeout) {
		return nil, fmt.Errorf("%s is in use: another wattle server runs with this state_dir; stop it first", path)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	s := &Store{db: db}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, b := range []string{tokens, nodes, reports, meta} {
			if _, err := tx.CreateBucketIfNotExists([]byte(b)); err != nil {
				return err
			}
		}
		if tx.Bucket([]byte(meta)).Get([]byte(storeID)) == nil {
			return put(tx, meta, storeID, rand.Text())
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare %s: %w", path, err), db.Close())
	}
	return s, nil
}

// Close closes the file.
func (s *Store) Close() error { return s.db.Close() }

// ID returns the random name that this store got when it was made.
func (s *Store) ID() (id string, err error) {
	return id, s.db.View(func(tx *bolt.Tx) error { _, err := get(tx, meta, storeID, &id); return err })
}

// Grant is what a node may register and hold. A pattern is "namespace/name", "namespace/*" or "*/*".
type Grant struct {
	Services []string `json:"services,omitempty"`
}

// Allows reports whether the grant covers a service.
func (g Grant) Allows(n registry.Name) bool {
	for _, p := range g.Services {
		ns, name, ok := strings.Cut(p, "/")
		if !ok {
			ns, name = "default", p
		}
		if (ns == "*" || ns == n.Namespace) && (name == "*" || name == n.Name) {
			return true
		}
	}
	return false
}

// Token is a join token as it is kept: without its secret.
type Token struct {
	Node    string    `json:"node"`
	Grant   Grant     `json:"grant"`
	Expires time.Time `json:"expires"`
}

// AddToken keeps a token under the hash of its secret, and forgets those that have expired.
func (s *Store) AddToken(secret string, t Token, now time.Time) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte(tokens))
		c := b.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			var old Token
			if json.Unmarshal(v, &old) != nil || now.After(old.Expires) {
				if err := c.Delete(); err != nil {
					return err
				}
			}
		}
		return put(tx, tokens, hashed(secret), t)
	})
}

// Redeem uses a token up and gives its node the token's grant: one transaction, so that of two racers one wins. The
// error is ErrToken if the token is not good for node.
func (s *Store) Redeem(secret, node string, now time.Time) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		var t Token
		ok, err := get(tx, tokens, hashed(secret), &t)
		if err != nil {
			return err
		}
		if !ok || t.Node != node || now.After(t.Expires) {
			return ErrToken
		}
		if err := tx.Bucket([]byte(tokens)).Delete([]byte(hashed(secret))); err != nil {
			return err
		}
		return putNode(tx, node, func(n *Node) { n.Grant, n.Joined = t.Grant, now })
	})
}

func hashed(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return string(sum[:])
}

// Node is a host that has joined or was provisioned.
type Node struct {
	Name   string    `json:"name"`
	Grant  Grant     `json:"grant"`
	Joined time.Time `json:"joined"`
}

// SetNode records a node that the operator provisioned, with its grant.
func (s *Store) SetNode(name string, g Grant, now time.Time) error {
	return s.db.Update(func(tx *bolt.Tx) error {
		return putNode(tx, name, func(n *Node) { n.Grant, n.Joined = g, now })
	})
}

func putNode(tx *bolt.Tx, name string, change func(*Node)) error {
	var n Node
	if _, err := get(tx, nodes, name, &n); err != nil {
		return err
	}
	n.Name = name
	change(&n)
	return put(tx, nodes, name, n)
}

// Node returns a node. It reports false if no such node has joined.
func (s *Store) Node(name string) (n Node, ok bool, err error) {
	err = s.db.View(func(tx *bolt.Tx) error { ok, err = get(tx, nodes, name, &n); return err })
	return n, ok, err
}

// Nodes returns all nodes, sorted by name.
func (s *Store) Nodes() (out []Node, err error) {
	return out, s.db.View(func(tx *bolt.Tx) error {
		return each(tx, nodes, func(_ string, n Node) { out = append(out, n) })
	})
}

// Report is what an agent last said, as far as it was accepted.
type Report struct {
	Address       netip.Addr     `json:"address"`
	MeshPort      uint16         `json:"mesh_port"`
	Registrations []Registration `json:"registrations,omitempty"`
	Health        []Health       `json:"health,omitempty"`
}

// Health is what an agent says of one workload.
type Health struct {
	Service  registry.Name `json:"service"`
	Instance string        `json:"instance,omitempty"`
	registry.HealthWord
}

// Registration is one workload that an agent registered. Body is a configs.Service as JSON.
type Registration struct {
	Body   json.RawMessage `json:"body"`
	Origin string          `json:"origin"`
}

// SetReport keeps a node's report.
func (s *Store) SetReport(node string, r Report) error {
	return s.db.Update(func(tx *bolt.Tx) error { return put(tx, reports, node, r) })
}

// Reports returns the last report of every node.
func (s *Store) Reports() (map[string]Report, error) {
	out := map[string]Report{}
	return out, s.db.View(func(tx *bolt.Tx) error {
		return each(tx, reports, func(node string, r Report) { out[node] = r })
	})
}

// revision is the last policy that was in force.
type revision struct {
	Number uint64 `json:"number"`
	Hash   string `json:"hash"`
}

// Revision returns the number of the policy with this content hash: the last one's if it is the same, else the next.
func (s *Store) Revision(hash string) (uint64, error) {
	var r revision
	err := s.db.Update(func(tx *bolt.Tx) error {
		if _, err := get(tx, meta, revisions, &r); err != nil || r.Hash == hash {
			return err
		}
		r = revision{r.Number + 1, hash}
		return put(tx, meta, revisions, r)
	})
	return r.Number, err
}

// allotted is one entry of an Allotment.
type allotted struct {
	Host     string        `json:"host"`
	Service  registry.Name `json:"service"`
	Instance string        `json:"instance,omitempty"`
	Port     uint16        `json:"port"`
}

// Allotment returns the mesh ports that workloads have.
func (s *Store) Allotment() (mesh.Allotment, error) {
	var all []allotted
	if err := s.db.View(func(tx *bolt.Tx) error { _, err := get(tx, meta, ports, &all); return err }); err != nil {
		return nil, err
	}
	out := make(mesh.Allotment, len(all))
	for _, a := range all {
		out[registry.WorkloadKey{Host: a.Host, Service: a.Service, Instance: a.Instance}] = a.Port
	}
	return out, nil
}

// SetAllotment keeps the mesh ports that workloads have.
func (s *Store) SetAllotment(m mesh.Allotment) error {
	all := make([]allotted, 0, len(m))
	for k, port := range m {
		all = append(all, allotted{k.Host, k.Service, k.Instance, port})
	}
	return s.db.Update(func(tx *bolt.Tx) error { return put(tx, meta, ports, all) })
}

func put(tx *bolt.Tx, bucket, key string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Bucket([]byte(bucket)).Put([]byte(key), text)
}

// get reports false if there is nothing under key.
func get(tx *bolt.Tx, bucket, key string, v any) (bool, error) {
	text := tx.Bucket([]byte(bucket)).Get([]byte(key))
	if text == nil {
		return false, nil
	}
	if err := json.Unmarshal(text, v); err != nil {
		return false, fmt.Errorf("store: %s %s: %w", bucket, key, err)
	}
	return true, nil
}

func each[T any](tx *bolt.Tx, bucket string, f func(key string, v T)) error {
	return tx.Bucket([]byte(bucket)).ForEach(func(k, text []byte) error {
		var v T
		if err := json.Unmarshal(text, &v); err != nil {
			return fmt.Errorf("store: %s %s: %w", bucket, k, err)
		}
		f(string(k), v)
		return nil
	})
}
