package store

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// written is the file of a store with many nodes, which was closed.
func written(t *testing.T) []byte {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	s.db.NoSync = true
	for i := range 500 {
		if err := s.Admit(fmt.Sprintf("h%d", i), Grant{Services: []string{strings.Repeat("x", i)}}, now); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "wattle.db"))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestADamagedFileIsAnErrorAndStays(t *testing.T) {
	good := written(t)
	const page = 4096
	try := func(name string, text []byte, must bool) {
		t.Helper()
		file := filepath.Join(t.TempDir(), "state", "wattle.db")
		if err := os.Mkdir(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(file)
		if err == nil {
			if must {
				t.Errorf("%s: it is used", name)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			return
		}
		if !errors.Is(err, ErrDamaged) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "backup") {
			t.Errorf("%s: %v", name, err)
		}
		if after, err := os.ReadFile(file); err != nil || string(after) != string(text) {
			t.Errorf("%s: the file was changed: %v", name, err)
		}
	}
	try("empty", nil, true)
	try("text", []byte("this is no database, but it may be all that is left of one"), true)
	for _, size := range []int{100, page, 2 * page, 4 * page, len(good) / 2 / page * page, len(good) / 2} {
		try(fmt.Sprint("the first bytes: ", size), good[:size], true)
	}
	random := rand.NewChaCha8([32]byte{1})
	for at := 0; at < len(good); at += page {
		text := append([]byte(nil), good...)
		if _, err := random.Read(text[at : at+page]); err != nil {
			t.Fatal(err)
		}
		try(fmt.Sprint("random bytes at ", at), text, false) // the page may be free, or one of the two first
	}
	text := append([]byte(nil), good...)
	if _, err := random.Read(text[2*page:]); err != nil {
		t.Fatal(err)
	}
	try("random bytes everywhere", text, true)
}

func TestAStoreKnowsItsCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	s := open(t, dir)
	has := func(want bool) {
		t.Helper()
		if got, err := s.HasCA(); got != want || err != nil {
			t.Errorf("it has a CA: %t, %v", got, err)
		}
	}
	has(false)
	for range 2 {
		if err := s.SetCA("aaaa"); err != nil {
			t.Fatal(err)
		}
		has(true)
	}
	s = reopen(t, s, dir)
	has(true)
	if err := s.SetCA("bbbb"); !errors.Is(err, ErrCA) || !strings.Contains(err.Error(), "backup") {
		t.Errorf("another CA: %v", err)
	}

	// A store of nodes has one, though it does not know which.
	s = open(t, filepath.Join(t.TempDir(), "state"))
	if err := s.Admit("h1", Grant{}, now); err != nil {
		t.Fatal(err)
	}
	has(true)
}

func TestAFolderThatIsOpenToOthersIsRefused(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []os.FileMode{0o777, 0o750, 0o701} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(filepath.Join(dir, "wattle.db")); err == nil || !strings.Contains(err.Error(), "chmod go= "+dir) {
			t.Errorf("mode %04o: %v, %v", mode, s, err)
		}
	}
}
