package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/test/load/echo"
)

// idle is how many connections a client keeps.
const idle = 64

func newShooter(t Target) (shooter, error) {
	network, addr := "tcp", t.Addr
	if path, ok := strings.CutPrefix(t.Addr, "unix:"); ok {
		network, addr = "unix", path
	}
	dial := func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, network, addr) }
	switch t.Kind {
	case Get, Post, H2:
		return newHTTP(t, dial), nil
	case GRPC, Stream:
		return newGRPC(t, dial)
	case TCP:
		return &tcpShooter{dial}, nil
	}
	return nil, fmt.Errorf("no kind %q", t.Kind)
}

// httpShooter sends Get, Post and H2.
type httpShooter struct {
	Target
	transport *http.Transport
}

func newHTTP(t Target, dial func(context.Context) (net.Conn, error)) *httpShooter {
	tr := &http.Transport{
		DialContext:         func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		MaxIdleConnsPerHost: idle, DisableCompression: true,
		Protocols: new(http.Protocols),
	}
	tr.Protocols.SetHTTP1(t.Kind != H2)
	tr.Protocols.SetUnencryptedHTTP2(t.Kind == H2)
	return &httpShooter{t, tr}
}

func (s *httpShooter) close() { s.transport.CloseIdleConnections() }

func (s *httpShooter) shoot(ctx context.Context, r *Result) {
	sent := 0
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent++ }})
	r.Err = s.exchange(ctx, r)
	r.Resent = max(sent-1, 0)
}

func (s *httpShooter) exchange(ctx context.Context, r *Result) error {
	host := s.Host
	if host == "" {
		host = "load"
	}
	method, out := http.MethodPost, body(r.ID)
	if s.Kind == Get {
		method, out = http.MethodGet, ""
	}
	path := "/" + strings.TrimPrefix(s.Path, "/")
	req, err := http.NewRequestWithContext(ctx, method, "http://"+host+path, strings.NewReader(out))
	if err != nil {
		return err
	}
	for k, v := range s.Header {
		req.Header.Set(k, v)
	}
	req.Header.Set(echo.IDHeader, r.ID)
	resp, err := s.transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	r.Status = resp.StatusCode
	in, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	decode(r, resp.Header.Get(echo.AnswerHeader), resp.Header.Get(echo.AttemptHeader))
	switch {
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("status %d: %.200s", resp.StatusCode, in)
	case r.Answer.ID != r.ID:
		return fmt.Errorf("wrong answer: that of request %q", r.Answer.ID)
	case out == "" && string(in) != resp.Header.Get(echo.AnswerHeader), out != "" && string(in) != out:
		return fmt.Errorf("wrong body: %d bytes, %.80q", len(in), in)
	}
	return nil
}

// decode reads who answered and how many tries it took; the proxy's word comes before what the application saw.
func decode(r *Result, answer, attempts string) {
	_ = json.Unmarshal([]byte(answer), &r.Answer) // of a stranger: zero, and its ID is not the request's
	if attempts == "" {
		attempts = r.Answer.Attempt
	}
	r.Attempts, _ = strconv.Atoi(attempts)
}

// messages is how many a Stream sends; each one waits for the answer to the one before.
const messages = 5

// grpcShooter sends GRPC and Stream, over one connection.
type grpcShooter struct {
	Target
	conn *grpc.ClientConn
}

func newGRPC(t Target, dial func(context.Context) (net.Conn, error)) (*grpcShooter, error) {
	conn, err := grpc.NewClient("passthrough:///load",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}))
	return &grpcShooter{t, conn}, err
}

func (s *grpcShooter) close() { s.conn.Close() }

func (s *grpcShooter) shoot(ctx context.Context, r *Result) {
	for k, v := range s.Header {
		ctx = metadata.AppendToOutgoingContext(ctx, strings.ToLower(k), v)
	}
	ctx = metadata.AppendToOutgoingContext(ctx, echo.IDHeader, r.ID)
	in, out := wrapperspb.Bytes([]byte(body(r.ID))), new(wrapperspb.BytesValue)
	var md metadata.MD
	if s.Kind == Stream {
		r.Err = s.talk(ctx, in, out, &md)
	} else {
		r.Err = s.conn.Invoke(ctx, echo.RPC, in, out, grpc.Header(&md))
	}
	if r.Err != nil {
		return
	}
	first := func(key string) string { return strings.Join(md.Get(key), ",") }
	decode(r, first(echo.AnswerHeader), first(echo.AttemptHeader))
	r.Status = http.StatusOK
	switch {
	case r.Answer.ID != r.ID:
		r.Err = fmt.Errorf("wrong answer: that of request %q", r.Answer.ID)
	case !bytes.Equal(in.GetValue(), out.GetValue()):
		r.Err = fmt.Errorf("wrong body: %d bytes, %.80q", len(out.GetValue()), out.GetValue())
	}
}

// talk sends in again and again, and returns the last answer in out.
func (s *grpcShooter) talk(ctx context.Context, in, out *wrapperspb.BytesValue, md *metadata.MD) error {
	stream, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, echo.StreamRPC, grpc.Header(md))
	if err != nil {
		return err
	}
	for range messages {
		// What a broken stream says, RecvMsg says.
		if err := stream.SendMsg(in); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if err := stream.RecvMsg(out); err != nil {
			return fmt.Errorf("the stream ended early: %w", err)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	switch err := stream.RecvMsg(new(wrapperspb.BytesValue)); {
	case err == nil:
		return errors.New("an answer to no message")
	case !errors.Is(err, io.EOF):
		return err
	}
	return nil
}

// tcpShooter sends TCP.
type tcpShooter struct {
	dial func(context.Context) (net.Conn, error)
}

func (s *tcpShooter) close() {}

func (s *tcpShooter) shoot(ctx context.Context, r *Result) { r.Err = s.exchange(ctx, r) }

func (s *tcpShooter) exchange(ctx context.Context, r *Result) error {
	c, err := s.dial(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(deadline); err != nil {
			return err
		}
	}
	line := body(r.ID) + "\n"
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	in, err := io.ReadAll(c)
	if err != nil {
		return errors.Join(ctx.Err(), err)
	}
	answer, back, _ := strings.Cut(string(in), "} ")
	decode(r, answer+"}", "")
	switch {
	case len(in) == 0:
		return errors.New("closed without an answer")
	case r.Answer.ID != r.ID:
		return fmt.Errorf("wrong answer: that of request %q", r.Answer.ID)
	case back != line:
		return fmt.Errorf("wrong body: %d bytes, %.80q", len(in), in)
	}
	r.Status = http.StatusOK
	return nil
}
