package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/test/load/echo"
)

// beat is how often somebody says something on a connection that lasts.
const beat = 50 * time.Millisecond

// endings is how connections that last ended: those that are longer than a drain. The mesh may end them, but not before the drain
// is over. Envoy announces it (GOAWAY) only with the beginning of another answer on the connection, and to the caller the end of the
// callee's proxy is the end of the stream (RST_STREAM).
type endings struct {
	Streams, Connections int             // gRPC streams that ended by GOAWAY and FIN; TCP connections by FIN
	Abrupt               []string        // the others
	Lives                []time.Duration // of all that ended
}

// linger is the program's role that keeps a gRPC stream and a TCP connection open, and opens another whenever one has ended,
// until its standard input ends. It then says what became of them.
func linger(ctx context.Context, at map[string]string) error {
	ctx, cancel := context.WithCancel(ctx)
	var mu sync.Mutex
	var all endings
	ended := func(began time.Time, n *int, fair bool, err error) {
		if ctx.Err() != nil {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		all.Lives = append(all.Lives, time.Since(began))
		if fair {
			*n++
		} else {
			all.Abrupt = append(all.Abrupt, time.Now().Format("15:04:05.000 ")+err.Error())
		}
	}
	var wg sync.WaitGroup
	for _, l := range []struct {
		once func(context.Context, string) error
		addr string
		n    *int
		fair func(error) bool
	}{
		// What grpc says of a connection that was announced to go, and went.
		{stream, at["stream"], &all.Streams, func(err error) bool { return strings.Contains(strings.ToLower(err.Error()), "goaway") }},
		{hold, at["tcp"], &all.Connections, func(err error) bool { return errors.Is(err, io.EOF) }},
	} {
		wg.Go(func() {
			for ctx.Err() == nil {
				began := time.Now()
				err := l.once(ctx, l.addr)
				ended(began, l.n, l.fair(err), err)
			}
		})
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	cancel()
	wg.Wait()
	return errors.Join(err, json.NewEncoder(os.Stdout).Encode(all))
}

// stream says something again and again on one gRPC stream until it ends; the error is how.
func stream(ctx context.Context, addr string) error {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, echo.StreamRPC)
	if err != nil {
		return err
	}
	for {
		msg := wrapperspb.Bytes([]byte("beat"))
		if err := s.SendMsg(msg); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := s.RecvMsg(msg); err != nil {
			return err
		}
		pause(ctx)
	}
}

// hold does so on one TCP connection.
func hold(ctx context.Context, addr string) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := io.WriteString(c, echo.Hold); err != nil {
		return err
	}
	in := bufio.NewReader(c)
	for {
		if _, err := io.WriteString(c, "beat\n"); err != nil {
			return err
		}
		if _, err := in.ReadString('\n'); err != nil {
			return err
		}
		pause(ctx)
	}
}

func pause(ctx context.Context) {
	select {
	case <-time.After(beat):
	case <-ctx.Done():
	}
}

// lasting keeps connections open from a host's network while what runs, and returns how they ended.
func (h *host) lasting(ctx context.Context, at map[string]string, what func() error) (e endings, err error) {
	cmd, err := h.self(ctx, "long", at)
	if err != nil {
		return e, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return e, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return e, err
	}
	if err := cmd.Start(); err != nil {
		return e, err
	}
	err = errors.Join(what(), in.Close(), json.NewDecoder(out).Decode(&e), cmd.Wait())
	return e, err
}

// self is this program in another role, within the network of a host, so that it outlives what is done to that.
func (h *host) self(ctx context.Context, role string, targets any) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(targets)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "nice", "-n", "-15", "ip", "netns", "exec", h.netns(), self, "-role", role, "-targets", string(text))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd, nil
}

// report says how connections that last ended, of which none may before a drain is over.
func (e endings) report(w *world, what string, drain time.Duration) {
	early := 0
	for _, life := range e.Lives {
		if life < drain {
			early++
		}
	}
	w.rows.Require(fmt.Sprintf("%s: of %d connections that last, ended before the drain was over", what, len(e.Lives)), float64(early), "connections", 0)
	w.rows.Note(fmt.Sprintf("%s: of connections that last, gRPC streams ended by GOAWAY and FIN", what), float64(e.Streams), "streams")
	w.rows.Note(fmt.Sprintf("%s: of connections that last, TCP ended by FIN", what), float64(e.Connections), "connections")
	w.rows.Note(fmt.Sprintf("%s: of connections that last, ended by a reset", what), float64(len(e.Abrupt)), "connections")
	for _, a := range e.Abrupt[:min(3, len(e.Abrupt))] {
		fmt.Fprintln(os.Stderr, "lab:    reset:", a)
	}
}
