package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/internal/api"
)

// An agent without a server answers whoever asks at its socket, wattle doctor for one.
func TestAnAgentSaysWhichVersionItIs(t *testing.T) {
	dir, err := os.MkdirTemp("", "wattle-") // t.TempDir is too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	file := filepath.Join(dir, "agent.hcl")
	token := api.Token{CA: strings.Repeat("0", 64), Secret: make([]byte, 32), Node: "h1"}
	text := fmt.Sprintf("server = [\"127.0.0.1:9\"]\nstate_dir = %q\nrun_dir = %q\ntoken = %q\nenvoy = \"true\"\n", filepath.Join(dir, "state"), filepath.Join(dir, "run"), token.Text())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	var out bytes.Buffer
	go func() { ended <- run(ctx, []string{"agent", "-config", file}, &out, &out) }()
	defer func() { cancel(); <-ended }()
	client := api.NewClient(api.ClientOptions{Address: "unix:" + filepath.Join(dir, "run", "agent.sock"), Agent: true})
	defer client.Close()
	for limit := time.Now().Add(10 * time.Second); ; {
		host, err := client.Host(t.Context())
		if err == nil {
			if host.Version != version {
				t.Errorf("version %q, want %q", host.Version, version)
			}
			return
		}
		select {
		case code := <-ended:
			ended <- code
			t.Fatalf("it has ended with code %d\n%s", code, out.String())
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(limit) {
			t.Fatal(err)
		}
	}
}
