package e2e

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestChangingTheModeOfASidecarLosesNoRequestToIt moves the callee of the standard load from the Envoy of its host to one of
// its own, and back.
func TestChangingTheModeOfASidecarLosesNoRequestToIt(t *testing.T) {
	t.Parallel()
	m := newMesh(t, faults)
	m.reached(t, request{Addr: "127.0.X.11:9081"})
	tr := m.startTrial(t, 0, side(t))
	sidecar := func(text string) string {
		return strings.Replace(text, "\n    ports = {", "\n    mode = \"sidecar\"\n    ports = {", 1)
	}
	tr.fault("the callee gets an Envoy of its own", func(t *testing.T) {
		m.write("h2.hcl", sidecar(shopHost))
		m.moved(t, "127.0.X.12:7443", "127.0.X.12:7444")
	}, noneFailed)
	tr.fault("and goes back to its host's", func(t *testing.T) {
		m.write("h2.hcl", shopHost)
		m.moved(t, "127.0.X.12:7444", "127.0.X.12:7443")
	}, noneFailed)
}

// TestACallerWithASidecarKeepsItsIdentity moves the caller to an Envoy of its own and back. Connections under way meanwhile
// may fail.
func TestACallerWithASidecarKeepsItsIdentity(t *testing.T) {
	t.Parallel()
	m := newMesh(t, faults)
	m.reached(t, request{Addr: "127.0.X.11:9081"})
	m.write("h1.hcl", strings.Replace(callerHost(), "port  = 9000", "port  = 9000\n    mode  = \"sidecar\"", 1))
	m.answers(t, "h1/host", "h1/web")
	m.knows(t, "spiffe://e2e.example/ns/default/svc/web")
	m.write("h1.hcl", callerHost())
	m.gone(t, "h1/web")
	m.knows(t, "spiffe://e2e.example/ns/default/svc/web")
}

// callerHost is the host of faults that calls.
func callerHost() string {
	_, text, _ := strings.Cut(faults, "-- h1.hcl --\n")
	text, _, _ = strings.Cut(text, "-- h2.hcl --")
	return text
}

// moved waits until somebody listens at one address and nobody at another one any more.
func (m *mesh) moved(t *testing.T, from, to string) {
	t.Helper()
	eventually(t, "an Envoy at "+to, func() error { return dial(t.Context(), m.at(to)) })
	eventually(t, "none at "+from, func() error {
		if dial(t.Context(), m.at(from)) == nil {
			return errors.New("there is one")
		}
		return nil
	})
}

// answers waits until these proxies are connected and have all that they were sent.
func (m *mesh) answers(t *testing.T, ids ...string) {
	t.Helper()
	eventually(t, fmt.Sprint(ids), func() error {
		all, err := m.proxies()
		for _, id := range ids {
			found := false
			for _, p := range all {
				found = found || p.ID == id && p.Connected && p.Synced
			}
			if !found {
				err = errors.Join(err, fmt.Errorf("%s is not in sync", id))
			}
		}
		return err
	})
}

// gone waits until the server knows no such proxy any more.
func (m *mesh) gone(t *testing.T, id string) {
	t.Helper()
	eventually(t, id+" to go", func() error {
		all, err := m.proxies()
		for _, p := range all {
			if p.ID == id {
				err = errors.New("it is there")
			}
		}
		return err
	})
}

// knows waits until a call gets through, and fails unless the callee sees the caller's identity.
func (m *mesh) knows(t *testing.T, identity string) {
	t.Helper()
	m.reached(t, request{Addr: "127.0.X.11:9081"})
	if got := m.mustCall(t, request{Addr: "127.0.X.11:9081"}).Answer.CallerID(); got != identity {
		t.Errorf("the caller is %q", got)
	}
}
