// Package e2e runs whole meshes: wattle server, wattle agent and Envoy as processes of their own, the way an operator
// does, with the echo application at the ends, on loopback networks that belong to one test each. A test gives
// the policy as text, calls what the mesh serves, breaks things and looks at what the callers saw.
package e2e

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
)

// suite is what all tests share. TestMain fills it in; nothing changes it later.
var suite struct {
	root  string // of the repository
	bin   string // folder of the programs built for this run
	envoy string
	fork  forker
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if signal.Ignored(syscall.SIGHUP) { // under nohup, which what is started here would inherit
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	if suite.root, err = filepath.Abs("../.."); err != nil {
		return 1, err
	}
	if suite.envoy, err = findEnvoy(suite.root); err != nil {
		return 1, err
	}
	if suite.bin, err = os.MkdirTemp("", "wattle-e2e-bin-"); err != nil {
		return 1, err
	}
	defer os.RemoveAll(suite.bin)
	if err := build(suite.bin); err != nil {
		return 1, err
	}
	if suite.fork, err = newForker(); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// findEnvoy returns the Envoy that make tools linked, or $ENVOY.
func findEnvoy(root string) (string, error) {
	if path := os.Getenv("ENVOY"); path != "" {
		return path, nil
	}
	path := filepath.Join(root, ".bin", "envoy")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("no Envoy: %w; make tools fetches it, or set ENVOY", err)
	}
	return path, nil
}
