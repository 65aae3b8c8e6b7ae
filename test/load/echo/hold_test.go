package echo

import (
	"bufio"
	"context"
	"io"
	"net"
	"testing"
)

func TestAnExchangeThatLastsEndsWithTheServer(t *testing.T) {
	s, err := Listen(t.Context(), Options{HTTP: []string{"127.0.0.1:0"}, TCP: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	c, err := net.Dial("tcp", s.TCPAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	in := bufio.NewReader(c)
	say := func(text string) (string, error) {
		if _, err := io.WriteString(c, text); err != nil {
			return "", err
		}
		return in.ReadString('\n')
	}
	if _, err := io.WriteString(c, Hold); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"one\n", "two\n"} {
		if got, err := say(line); got != line {
			t.Errorf("%q, %v, want %q", got, err, line)
		}
	}
	stop()
	for err == nil {
		_, err = say("more\n")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
