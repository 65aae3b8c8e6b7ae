package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// FindEnvoy returns the absolute path of the Envoy binary: the one that is named (a path, or a name on PATH), or
// if name is empty $ENVOY, .bin/envoy in the working directory, or envoy on PATH. The error says the remedy.
func FindEnvoy(name string) (string, error) {
	candidates := []string{name}
	if name == "" {
		candidates = []string{os.Getenv("ENVOY"), filepath.Join(".bin", "envoy"), "envoy"}
	}
	for _, c := range candidates {
		if c == "" {
			continue
		}
		path, err := exec.LookPath(c)
		if err == nil || errors.Is(err, exec.ErrDot) {
			return filepath.Abs(path)
		}
		if name != "" || c == os.Getenv("ENVOY") {
			return "", fmt.Errorf("envoy: %w; run make tools, or set envoy in the agent's file or $ENVOY to the path of an Envoy 1.40 binary", err)
		}
	}
	return "", errors.New("envoy is neither in .bin nor on PATH; run make tools, or set envoy in the agent's file or $ENVOY to the path of an Envoy 1.40 binary")
}
