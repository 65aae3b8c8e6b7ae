package store

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"
)

// image is what a store's file holds, and what it means.
type image struct {
	bytes []byte
	means map[string]string
}

// content lists all that a store has.
func content(t *testing.T, s *Store) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				out[string(name)+"/"+string(k)] = string(v)
				return nil
			})
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A commit writes pages of data, syncs, writes one of the two meta pages, and syncs. The power may go at any of these writes, and what
// was not synced may be on the disk in any order, a page in part: what is there when it is back is the store before the
// commit, whole, or the one after it.
func TestPowerCutsAtEveryWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	take := func() image {
		text, err := os.ReadFile(filepath.Join(dir, "wattle.db"))
		if err != nil {
			t.Fatal(err)
		}
		return image{text, content(t, s)}
	}
	before := take()
	r := rand.New(rand.NewPCG(1, 2))
	cuts := 0
	for i := range 25 {
		var err error
		switch i % 3 {
		case 0:
			_, err = s.Revision(fmt.Sprint("hash ", i))
		case 1:
			err = s.Admit(fmt.Sprint("h", i), Grant{Services: []string{"shop/*"}}, time.Unix(int64(i), 0))
		default:
			err = s.SaveReports([]Report{{Node: "h1", MeshPort: uint16(7000 + i), Facts: map[string]string{"text": string(bytes.Repeat([]byte("x"), 2000*i))}}})
		}
		if err != nil {
			t.Fatal(err)
		}
		after := take()
		cuts += cutCommit(t, r, before, after)
		before = after
	}
	if cuts < 200 {
		t.Errorf("%d cuts only", cuts)
	}
}

// cutCommit cuts the power at each write of the commit between two images.
func cutCommit(t *testing.T, r *rand.Rand, before, after image) (cuts int) {
	t.Helper()
	size := os.Getpagesize()
	disk := make([]byte, max(len(before.bytes), len(after.bytes))) // the file grows first
	copy(disk, before.bytes)
	var data, meta []int
	for at := 0; at+size <= len(after.bytes); at += size {
		if bytes.Equal(disk[at:at+size], after.bytes[at:at+size]) {
			continue
		}
		if at < 2*size {
			meta = append(meta, at)
		} else {
			data = append(data, at)
		}
	}
	r.Shuffle(len(data), func(i, j int) { data[i], data[j] = data[j], data[i] })
	for _, at := range data {
		copy(disk[at:at+size/2], after.bytes[at:])
		boots(t, disk, before)
		copy(disk[at:at+size], after.bytes[at:])
		boots(t, disk, before)
		cuts += 2
	}
	if len(meta) != 1 {
		t.Fatalf("%d meta pages were written", len(meta))
	}
	// 16 bytes of the page's head, then what the checksum at its end is of: cut within, it is not whole.
	for _, n := range []int{17, 40, 64} {
		torn := bytes.Clone(disk)
		copy(torn[meta[0]:meta[0]+n], after.bytes[meta[0]:])
		boots(t, torn, before, after) // as much may be equal as makes it whole
		cuts++
	}
	copy(disk[meta[0]:meta[0]+size], after.bytes[meta[0]:])
	boots(t, disk, after)
	return cuts + 1
}

// boots opens a store of a disk's bytes, and fails the test unless it means one of these.
func boots(t *testing.T, disk []byte, either ...image) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "wattle.db"), disk, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(filepath.Join(dir, "wattle.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got := content(t, s)
	for _, want := range either {
		if maps.Equal(got, want.means) {
			return
		}
	}
	t.Fatalf("it is neither the store before the commit nor after it: %d values", len(got))
}
