package e2e

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
)

// lockPort is held on the first address of a network while a test uses it. It lies below the ephemeral ports.
const lockPort = 29999

// network is 127.0.N.0/24 for one N, which belongs to one test while it runs, also towards other test processes
// of the machine. Texts name its addresses as 127.0.X.y.
type network struct {
	n    int
	lock net.Listener
}

// newNetwork finds a network that nobody uses, and holds it until the test ends.
func newNetwork(t *testing.T) *network {
	t.Helper()
	const first, count = 20, 230
	for i := range count {
		n := first + (os.Getpid()*7+i)%count
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.%d.1:%d", n, lockPort))
		if err != nil {
			continue
		}
		t.Cleanup(func() { l.Close() })
		return &network{n, l}
	}
	t.Fatalf("no 127.0.N.0/24 is free for %d <= N < %d", first, first+count)
	return nil
}

// at puts the network's number in the place of X in every 127.0.X.y of a text.
func (n *network) at(text string) string {
	return strings.ReplaceAll(text, "127.0.X.", fmt.Sprintf("127.0.%d.", n.n))
}
