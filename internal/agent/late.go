package agent

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

// expired says that the node certificate is over, if it is: until it has been renewed, a server answers nothing else.
func (n *node) expired() error {
	if end := n.held.Now().cert.Leaf.NotAfter; !n.now().Before(end) {
		return fmt.Errorf("the node certificate expired %s; it has to be renewed first", end.Format(time.RFC3339))
	}
	return nil
}

// renewer asks for the node's own certificate. One that has expired is shown on a connection of its own, which ends
// with the answer: what the server lets it do on that is of no use to anything else.
func (a *Agent) renewer(client apipb.NodeClient) signer {
	return func(ctx context.Context, req *apipb.SignRequest, opts ...grpc.CallOption) (*apipb.SignResponse, error) {
		if a.node.expired() == nil {
			return client.Sign(ctx, req, opts...)
		}
		conn, err := dial(a.o.Config, a.node.tls(), nil)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		resp, err := apipb.NewNodeClient(conn).Sign(ctx, req, opts...)
		switch {
		case err == nil:
			a.o.Log.Info("the node certificate had expired, and is renewed", "expired", a.node.held.Now().cert.Leaf.NotAfter)
		case refused(err):
			err = fmt.Errorf("%w; then end the agent here, remove %s and %s, put the new token where token_file says, and start it",
				err, a.node.path(nodeCertFile), a.node.path(rootsFile))
		}
		return resp, err
	}
}
