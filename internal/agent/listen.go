package agent

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/wattle-mesh/wattle/internal/launch"
)

// askLimit is how long it may take to find out who an Envoy runs as.
const askLimit = 2 * time.Second

// listen opens the socket of a relay: for this user only, or for the Envoy's, whoever of the group connects.
func listen(o relayOptions) (net.Listener, error) {
	path := socket(o.Dir)
	if err := folder(o); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if o.Owner == nil {
		err = os.Chmod(path, 0o600)
	} else {
		err = errors.Join(os.Lchown(path, -1, o.Group), os.Chmod(path, 0o660))
		l = &narrow{l, o.Log.With("proxy", o.ID), o.Owner}
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// folder makes the relay's folder.
func folder(o relayOptions) error {
	if o.Owner != nil {
		return launch.Folder(o.Dir, o.Group)
	}
	return os.MkdirAll(o.Dir, 0o700)
}

// narrow is a listener that lets in one user only.
type narrow struct {
	net.Listener
	log   *slog.Logger
	owner func(context.Context) (uint32, error)
}

// Accept implements net.Listener. Whoever connects is asked for each time: a unit's user may be another when it starts again.
func (n *narrow) Accept() (net.Conn, error) {
	for {
		conn, err := n.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if n.admit(conn) {
			return conn, nil
		}
		_ = conn.Close()
	}
}

func (n *narrow) admit(conn net.Conn) bool {
	who, err := peerOf(conn)
	if err != nil {
		return false // it has gone
	}
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	uid, err := n.owner(ctx)
	switch {
	case err != nil:
		n.log.Error("it is not known whose the proxy is, nobody is let in", "error", err)
	case uid != who.uid:
		n.log.Warn("another user than the proxy's is not let in", "uid", who.uid, "want", uid)
	}
	return err == nil && uid == who.uid
}
