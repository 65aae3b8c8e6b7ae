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

// writeKey replaces a file with a private key, sealed if it can be.
func writeKey(s *seal.Seal, path string, text []byte) error {
	return writeFile(path, s.Wrap(path, text))
}

// readKey returns what writeKey wrote. What was written without a seal is sealed from now on.
func readKey(s *seal.Seal, path string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	plain, stale, err := s.Unwrap(path, text)
	if stale {
		err = writeKey(s, path, plain)
	}
	return plain, err
}
