package agent

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/internal/api"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

// callLimit bounds one call to the server.
const callLimit = 10 * time.Second

// ErrNotJoined is what Run's error matches when the host cannot join the mesh: it has no token, or a server refuses it.
// Trying again is of no use until somebody gives it another one.
var ErrNotJoined = errors.New("this host has not joined a mesh")

// ErrJoined is what Join's error matches when there is nothing to join.
var ErrJoined = errors.New("this host is a member of a mesh already")

// Joined says of which.
func Joined(node, trustDomain string) error {
	return fmt.Errorf("%w: it is %s of %s; wattle agent leave takes it out of that, and -force does if no server of it answers any more", ErrJoined, node, trustDomain)
}

// ticket is a join token, and its text, which the server wants to see.
type ticket struct {
	api.Token
	text string
}

// ticket returns the host's join token; nil: it has joined, and needs none.
func (a *Agent) ticket() (*ticket, error) {
	if a.node.held.Now() != nil {
		return nil, nil
	}
	cfg := a.o.Config
	text, err := token(cfg.Token, cfg.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotJoined, err)
	}
	if text == "" {
		return nil, fmt.Errorf("%w: set token_file to a token of wattle token create -node NAME, or put the files of wattle ca issue -node NAME into %s", ErrNotJoined, cfg.StateDir)
	}
	tok, err := api.ParseToken(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotJoined, err)
	}
	if cfg.Node != "" && cfg.Node != tok.Node {
		return nil, fmt.Errorf("%w: the join token is for node %s, but the configuration says node = %q", ErrNotJoined, tok.Node, cfg.Node)
	}
	return &ticket{tok, text}, nil
}

// join trades the ticket for a node certificate. It tries until it is done, or a server that has the token's root refuses.
func (a *Agent) join(ctx context.Context, t *ticket) error {
	conf, err := a.node.joinTLS(t.CA)
	if err != nil {
		return err
	}
	conn, err := dial(a.o.Config, conf, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	client := apipb.NewNodeClient(conn)
	pause := newPause()
	for {
		err := a.tryJoin(ctx, client, t.text)
		if err == nil {
			a.o.Log.Info("joined the mesh", "node", a.node.held.Now().id.String())
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if final(err) {
			return fmt.Errorf("%w: %w", ErrNotJoined, err)
		}
		wait := pause.NextBackOff()
		a.o.Log.Warn("cannot join yet", "error", err, "again_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return ctx.Err()
		}
	}
}

func (a *Agent) tryJoin(ctx context.Context, client apipb.NodeClient, token string) error {
	if err := a.keepable(); err != nil {
		return err
	}
	csr, err := request(a.node.key)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	resp, err := client.Join(ctx, &apipb.JoinRequest{Token: token, Csr: csr})
	if err != nil {
		return err
	}
	return a.node.adopt(resp)
}

// errNoRoom is that what a token is traded for could not be kept.
var errNoRoom = errors.New("the state folder cannot be written, and the token is not spent for nothing")

// keepable says why a certificate could not be kept.
func (a *Agent) keepable() error {
	err := tryWrite(a.disk.dir)
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		err = no
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errNoRoom, a.disk.dir, err)
	}
	return nil
}

// final reports whether a call's error will not go away by trying again.
func final(err error) bool {
	if errors.Is(err, errNoRoom) {
		return false
	}
	if _, ok := status.FromError(err); !ok {
		return !errors.Is(err, context.DeadlineExceeded)
	}
	return refused(err)
}

// refused reports whether the server has said no to a call.
func refused(err error) bool {
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument, codes.Unimplemented:
		return true
	default:
		return false
	}
}
