package etcd

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	maxFile    = 1 << 20          // bytes of a password or certificate file
	maxMessage = 32 << 20         // bytes of one answer
	keepalive  = 10 * time.Second // between pings; gRPC allows no less, and etcd no less than 5 s
	retries    = 8                // of one request, at other members and with pauses of 25 ms
)

// secrets is what the files say at one moment.
type secrets struct {
	password string
	tls      *tls.Config // nil: no TLS
	sum      [sha256.Size]byte
}

// readSecrets reads the files of a configuration.
func (c *config) readSecrets() (*secrets, error) {
	out := &secrets{}
	files := map[string][]byte{}
	sum := sha256.New()
	for _, path := range []string{c.passwordFile, c.caFile, c.certFile, c.keyFile} {
		if path == "" {
			continue
		}
		text, err := readFile(path)
		if err != nil {
			return nil, err
		}
		files[path] = text
		fmt.Fprintf(sum, "%d\n%s", len(text), text)
	}
	sum.Sum(out.sum[:0])
	if c.passwordFile != "" {
		out.password = strings.TrimRight(string(files[c.passwordFile]), "\r\n")
		if out.password == "" {
			return nil, fmt.Errorf("%s is empty: it holds the password of user %q", c.passwordFile, c.username)
		}
	}
	if !c.secure {
		return out, nil
	}
	out.tls = &tls.Config{MinVersion: tls.VersionTLS12}
	if c.caFile != "" {
		out.tls.RootCAs = x509.NewCertPool()
		if !out.tls.RootCAs.AppendCertsFromPEM(files[c.caFile]) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", c.caFile)
		}
	}
	if c.certFile != "" {
		pair, err := tls.X509KeyPair(files[c.certFile], files[c.keyFile])
		if err != nil {
			return nil, fmt.Errorf("%s and %s are no certificate and its key: %w", c.certFile, c.keyFile, err)
		}
		out.tls.Certificates = []tls.Certificate{pair}
	}
	return out, nil
}

// readFile reads a file that must be short.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(text) > maxFile {
		err = fmt.Errorf("%s has more than %d bytes", path, maxFile)
	}
	return text, err
}

// connect makes a client and logs in.
func (c *config) connect(ctx context.Context, s *secrets) (*clientv3.Client, error) {
	pauses := backoff.DefaultConfig
	pauses.BaseDelay, pauses.MaxDelay = 100*time.Millisecond, 5*time.Second
	opts := []grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pauses, MinConnectTimeout: c.dialTimeout}),
		grpc.WithChainUnaryInterceptor(failFast),
	}
	if c.serverName != "" {
		opts = append(opts, grpc.WithAuthority(c.serverName)) // tls.Config's is overwritten with the endpoint's host
	}
	return clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: c.endpoints, TLS: s.tls, Username: c.username, Password: s.password,
		DialTimeout: c.dialTimeout, DialKeepAliveTime: keepalive, DialKeepAliveTimeout: c.requestTimeout,
		MaxCallRecvMsgSize: maxMessage, MaxUnaryRetries: retries, Logger: zap.NewNop(), DialOptions: opts,
	})
}

// errStale is a login that is over. A new connection logs in anew.
var errStale = errors.New("the login is over")

// failFast lets a request fail when no member can be connected to: the client's default is to wait until the request's
// time is over and then not to say why. It also ends the loop in which the client tries to log in with a token that is
// over: a member before 3.5 refuses that for the token's sake.
func failFast(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, append(opts, grpc.WaitForReady(false))...)
	if method == pb.Auth_Authenticate_FullMethodName && errors.Is(rpctypes.Error(err), rpctypes.ErrInvalidAuthToken) {
		return errStale
	}
	return err
}

// plain takes the words of gRPC off an error. errors.Is finds etcd's own errors and context.DeadlineExceeded.
func plain(err error) error {
	err = rpctypes.Error(err)
	if errors.As(err, new(rpctypes.EtcdError)) {
		return err
	}
	switch s, ok := status.FromError(err); {
	case !ok || err == nil:
		return err
	case s.Code() == codes.DeadlineExceeded:
		return context.DeadlineExceeded
	default:
		return errors.New(s.Message())
	}
}

// explain adds the remedy to an error.
func (c *config) explain(err error) error {
	remedy := ""
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied):
		remedy = fmt.Sprintf("grant a role of the user: etcdctl role grant-permission ROLE --prefix=true read %s", c.prefix)
	case errors.Is(err, rpctypes.ErrAuthFailed):
		remedy = fmt.Sprintf("see username %q and what password_file holds", c.username)
	case errors.Is(err, rpctypes.ErrUserEmpty):
		remedy = "set username and password_file, or cert_file and key_file"
	case errors.Is(err, context.DeadlineExceeded):
		remedy = "no member of " + strings.Join(c.endpoints, ", ") + " answered in time"
	}
	if remedy == "" {
		return err
	}
	return fmt.Errorf("%w; %s", err, remedy)
}
