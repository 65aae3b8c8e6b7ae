package agent

import (
	"os"

	"github.com/wattle-mesh/wattle/internal/seal"
)

// Credential is the name of the systemd credential that the host's private keys are sealed with, if there is one.
const Credential = "wattle-agent-key"

func openSeal(credentials string) (*seal.Seal, error) {
	return seal.Open(credentials, Credential, "wattle agent private keys")
}

// writeKey is write for a file with a private key, sealed if it can be.
func (d *disk) writeKey(path string, text []byte) { d.write(path, d.seal.Wrap(path, text)) }

// readKey returns what writeKey wrote. What was written without a seal is sealed from now on, as soon as that can be written.
func (d *disk) readKey(path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	plain, stale, err := d.seal.Unwrap(path, text)
	if stale {
		d.writeKey(path, plain)
	}
	return plain, err
}
