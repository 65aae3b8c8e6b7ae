package lkg

import (
	"errors"
	"os"
)

// disk is what a Store needs of a file system. The tests have one that forgets what was not synced.
type disk interface {
	makeFolder(dir string) error
	read(path string) ([]byte, error)
	write(path string, text []byte) error // and sync it
	rename(from, to string) error
	remove(path string) error
	sync(dir string) error
	list(dir string) ([]string, error)
}

type osDisk struct{}

func (osDisk) makeFolder(dir string) error { return os.MkdirAll(dir, 0o700) }

func (osDisk) read(path string) ([]byte, error) { return os.ReadFile(path) }

func (osDisk) write(path string, text []byte) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (osDisk) rename(from, to string) error { return os.Rename(from, to) }

func (osDisk) remove(path string) error { return os.Remove(path) }

func (osDisk) sync(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (osDisk) list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, err
}
