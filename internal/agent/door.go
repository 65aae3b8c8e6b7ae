package agent

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"github.com/wattle-mesh/wattle/configs"
)

// agentSocket is the socket in run_dir through which the host's users register workloads. The kernel says who they are.
const agentSocket = "agent.sock"

// How many connections there may be at a time, and for how long one may be busy with one request. Root and the agent's user
// have places of their own.
const (
	maxConns       = 128
	maxConnsOfUser = 16

	headerLimit = 5 * time.Second
	readLimit   = 10 * time.Second
	writeLimit  = 60 * time.Second // it may wait for the server
	idleLimit   = 30 * time.Second
	maxHeader   = 8 << 10 // bytes
)

// door is a listener on a unix socket that knows who comes, and lets no user in too often.
type door struct {
	net.Listener
	uid uint32 // of the agent

	mu    sync.Mutex
	all   int            // connections but those of root and the agent's user
	users map[uint32]int // likewise
}

// Socket is the path of the socket through which workloads are registered.
func Socket(cfg *configs.Agent) string { return filepath.Join(cfg.RunDir, agentSocket) }

// openDoor opens the socket for all users of the host, if it is not open yet. The caller has the folder to itself: what is
// left of another agent is removed.
func openDoor(open net.Listener, path string, uid uint32) (*door, error) {
	if open != nil {
		return &door{Listener: open, uid: uid, users: map[uint32]int{}}, nil
	}
	if info, err := os.Lstat(path); err == nil && info.Mode().Type() == fs.ModeSocket {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("the agent's socket: %w", err)
	}
	if err := os.Chmod(path, 0o666); err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("the agent's socket: %w", err)
	}
	return &door{Listener: l, uid: uid, users: map[uint32]int{}}, nil
}

// guest is a connection with who is at its other end.
type guest struct {
	net.Conn
	client
	leave func()
}

// Close implements net.Conn.
func (g *guest) Close() error {
	g.leave()
	return g.Conn.Close()
}

// Accept implements net.Listener. Who is not let in hears why, if that can be said at once.
func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		who, err := peerOf(conn)
		if err != nil {
			_ = conn.Close() // it has gone
			continue
		}
		leave, ok := d.enter(who)
		if !ok {
			const text = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/json\r\n\r\n" +
				"{\"error\": \"this user has too many connections to the agent\", \"remedy\": \"close some\", \"code\": \"W5008\"}\n"
			_ = conn.SetWriteDeadline(time.Now().Add(time.Millisecond))
			_, _ = conn.Write([]byte(text))
			_ = conn.Close()
			continue
		}
		return &guest{conn, who, leave}, nil
	}
}

// enter counts a connection in, and leave counts it out, once.
func (d *door) enter(who client) (leave func(), ok bool) {
	if who.uid == root || who.uid == d.uid {
		return func() {}, true
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all >= maxConns || d.users[who.uid] >= maxConnsOfUser {
		return nil, false
	}
	d.all++
	d.users[who.uid]++
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.all--
		if d.users[who.uid]--; d.users[who.uid] == 0 {
			delete(d.users, who.uid)
		}
	}), true
}

// peerOf asks the kernel who connected.
func peerOf(conn net.Conn) (client, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return client{}, fmt.Errorf("%T is no unix socket", conn)
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return client{}, err
	}
	var cred *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return client{}, err
	}
	if failed != nil {
		return client{}, failed
	}
	return client{uid: cred.Uid}, nil
}

type clientKey struct{}

// serve answers at the door until ctx is done. Answers that are under way then have a second to end.
func (d *desk) serve(ctx context.Context, l *door) error {
	s := &http.Server{
		Handler: d.handler(), ReadHeaderTimeout: headerLimit, ReadTimeout: readLimit, WriteTimeout: writeLimit,
		IdleTimeout: idleLimit, MaxHeaderBytes: maxHeader,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, clientKey{}, c.(*guest).client) // the door lets in no others
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	select {
	case err := <-ended:
		return fmt.Errorf("the agent's socket: %w", err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if s.Shutdown(grace) != nil {
		_ = s.Close() // what took longer than its grace is cut off
	}
	<-ended
	return nil
}

// A user may write writeBurst times at once, and writeRate times a second from then on.
const (
	writeRate  = 10
	writeBurst = 50
	maxPaced   = 1024 // users that are remembered
)

type pace = rate.Limiter

// paces limits what each user writes: every write may ask systemd, and be put on the disk.
type paces struct {
	mu    sync.Mutex
	users map[uint32]*pace
}

func (p *paces) allow(uid uint32) bool {
	if uid == root {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.users[uid]
	if l == nil {
		if len(p.users) >= maxPaced {
			clear(p.users)
		}
		l = rate.NewLimiter(writeRate, writeBurst)
		p.users[uid] = l
	}
	return l.Allow()
}
