package store

import (
	"fmt"
	"runtime/debug"
	"strings"

	"go.etcd.io/bbolt"
)

// attempt calls f, which opens a file that may be damaged. bbolt maps files into memory and trusts what they say: it
// panics, or reads beyond their end. That is an error here.
func attempt(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			what, _, _ := strings.Cut(fmt.Sprint(r), "\n")
			err = fmt.Errorf("%w (%s)", ErrDamaged, what)
		}
	}()
	return f()
}

// check looks at all of the file. What is reachable is read here first, where attempt catches a fault: bbolt's own
// check, which knows more, runs in a goroutine of its own.
func check(tx *bbolt.Tx) error {
	err := tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
		return b.ForEach(func(k, _ []byte) error {
			b.Get(k) // goes by the keys of all pages above it
			return nil
		})
	})
	for problem := range tx.Check() {
		if err == nil {
			err = fmt.Errorf("%w (%w)", ErrDamaged, problem)
		}
	}
	return err
}
