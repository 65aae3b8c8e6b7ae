package datapath

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// bytesPolicy has web, on h1, open connections to lines on two hosts, and to quiet, which has no application.
const bytesPolicy = `
-- mesh.hcl --
mesh { trust_domain = "path.example" }
-- hosts.hcl --
host "h1" {
  address = "127.0.X.11"
  service "web" {
    port = 8000
    upstream "lines" { bind = "127.0.X.11:9081" }
    upstream "quiet" { bind = "127.0.X.11:9082" }
  }
}
host "h2" {
  address = "127.0.X.12"
  service "lines" {
    port     = 7000
    protocol = "tcp"
    local    = "127.0.X.12:7000"
  }
  service "quiet" {
    port     = 7001
    protocol = "tcp"
    local    = "127.0.X.12:7001"
  }
}
host "h3" {
  address = "127.0.X.13"
  service "lines" {
    port     = 7000
    protocol = "tcp"
    local    = "127.0.X.13:7000"
  }
}
`

func TestBytes(t *testing.T) {
	p := newPath(t, bytesPolicy)
	startLines(t, "lines2", p.at("127.0.X.12:7000"))
	startLines(t, "lines3", p.at("127.0.X.13:7000"))

	t.Run("connections go to all hosts", func(t *testing.T) {
		got := map[string]int{}
		for range 20 {
			line, err := p.say(t, "127.0.X.11:9081")
			if err != nil {
				t.Fatal(err)
			}
			got[line]++
		}
		if len(got) != 2 {
			t.Errorf("answers: %v", got)
		}
	})
	t.Run("an application that refuses closes its caller's connection", func(t *testing.T) {
		if line, err := p.say(t, "127.0.X.11:9082"); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%q, %v; want the connection closed", line, err)
		}
	})
	t.Run("a connection that a dead host does not take is tried at another", func(t *testing.T) {
		p.envoys["h3/host"].kill()
		for i := range 100 {
			if line, err := p.say(t, "127.0.X.11:9081"); line != "lines2: hello\n" {
				t.Fatalf("connection %d: %q, %v", i, line, err)
			}
		}
	})
}

// say sends a line over a connection of its own and returns the answer.
func (p *path) say(t *testing.T, addr string) (string, error) {
	t.Helper()
	conn, err := net.Dial("tcp", p.at(addr))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(conn, "hello")
	return bufio.NewReader(conn).ReadString('\n')
}
