package echo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// drainTime is how long requests in flight may take to end after Run's context is done.
const drainTime = 5 * time.Second

// maxBody bounds a request's body, in bytes.
const maxBody = 4 << 20

// Options says who the server is and where it listens. An address is host:port, or unix:PATH.
type Options struct {
	Name, Version, Host, Instance string
	HTTP                          []string // HTTP/1, HTTP/2 and gRPC at each
	TCP                           string   // lines; none if empty
	Receipts                      string   // file to which the id of each request is appended before it is answered; none if empty
}

// Server answers.
type Server struct {
	opts     Options
	seq      atomic.Uint64
	status   atomic.Int64 // of /healthz
	receipts *os.File
	http     []net.Listener
	tcp      net.Listener
	ending   chan struct{} // closed when Run's context is done
	grpc     *grpc.Server

	mu    sync.Mutex
	tries map[string]int // by request id, of requests that fail their first times
}

// Listen opens what the options name, so that the server can be called when it returns.
func Listen(ctx context.Context, o Options) (_ *Server, err error) {
	s := &Server{opts: o, tries: map[string]int{}, ending: make(chan struct{})}
	s.status.Store(http.StatusOK)
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if o.Receipts != "" {
		if s.receipts, err = os.OpenFile(o.Receipts, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err != nil {
			return nil, err
		}
	}
	for _, addr := range o.HTTP {
		l, err := listen(ctx, addr)
		if err != nil {
			return nil, err
		}
		s.http = append(s.http, l)
	}
	if o.TCP != "" {
		if s.tcp, err = listen(ctx, o.TCP); err != nil {
			return nil, err
		}
	}
	s.grpc = s.newGRPC()
	return s, nil
}

func listen(ctx context.Context, addr string) (net.Listener, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	return new(net.ListenConfig).Listen(ctx, network, addr)
}

// HTTPAddr returns the first address at which HTTP is served.
func (s *Server) HTTPAddr() string { return s.http[0].Addr().String() }

// TCPAddr returns where lines are served.
func (s *Server) TCPAddr() string { return s.tcp.Addr().String() }

func (s *Server) close() {
	for _, l := range s.http {
		l.Close()
	}
	if s.tcp != nil {
		s.tcp.Close()
	}
	if s.receipts != nil {
		s.receipts.Close()
	}
}

// Run answers until ctx is done, then lets requests in flight end.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{
		Handler: s.Handler(), Protocols: &protocols, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // clients that are killed are part of the game
	}
	ended := make(chan error, len(s.http)+1)
	var wg sync.WaitGroup
	for _, l := range s.http {
		wg.Go(func() { ended <- srv.Serve(l) })
	}
	if s.tcp != nil {
		wg.Go(func() { ended <- s.serveTCP() })
	}
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	close(s.ending)
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	if s.tcp != nil {
		s.tcp.Close()
	}
	if srv.Shutdown(drain) != nil {
		srv.Close()
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// receive counts a request and writes it down. The line is in the file, whatever happens to the process, before
// receive returns.
func (s *Server) receive(id string) (seq uint64, err error) {
	seq = s.seq.Add(1)
	if s.receipts == nil || id == "" {
		return seq, nil
	}
	_, err = s.receipts.WriteString(id + "\n")
	return seq, err
}

// failing counts a try of a request and reports whether it is among the first n.
func (s *Server) failing(id string, n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tries[id]++
	return s.tries[id] <= n
}

func (s *Server) self() Answer {
	return Answer{Name: s.opts.Name, Version: s.opts.Version, Host: s.opts.Host, Instance: s.opts.Instance}
}

// serveTCP answers one line on each connection: with the answer in JSON, a space and the line. After Hold it gives line after
// line back.
func (s *Server) serveTCP() error {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := s.tcp.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		wg.Go(func() {
			defer c.Close()
			_ = s.exchange(c) // the client sees it
		})
	}
}

func (s *Server) exchange(c net.Conn) error {
	in := bufio.NewReader(io.LimitReader(c, maxBody))
	line, err := readLine(c, in)
	if err != nil {
		return err
	}
	if line == Hold {
		return s.hold(c, in)
	}
	ans := s.self()
	ans.ID, _, _ = strings.Cut(strings.TrimSuffix(line, "\n"), " ")
	if ans.Seq, err = s.receive(ans.ID); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c, "%s %s", ans.JSON(), line)
	return err
}

// hold gives lines back until the client has no more, or the server ends.
func (s *Server) hold(c net.Conn, in *bufio.Reader) error {
	for {
		line, err := readLine(c, in)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(c, line); err != nil {
			return err
		}
		select {
		case <-s.ending:
			return nil
		default:
		}
	}
}

// readLine reads a line, which must come, and be answered, in time.
func readLine(c net.Conn, in *bufio.Reader) (string, error) {
	if err := c.SetDeadline(time.Now().Add(drainTime)); err != nil {
		return "", err
	}
	return in.ReadString('\n')
}

// Receipts reads the ids in a file that a server wrote, with how often each was received. A file that is not
// there yet is empty.
func Receipts(file string) (map[string]int, error) {
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	out := map[string]int{}
	for id := range strings.Lines(string(b)) {
		out[strings.TrimSuffix(id, "\n")]++
	}
	return out, nil
}
