package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/wattle-mesh/wattle/registry"
)

const (
	probe     = 5 * time.Second
	gap       = 5 * time.Millisecond // between two publications
	readAhead = 16                   // answers that wait to be taken in
)

var (
	errSilent = errors.New("the member that is watched no longer answers")
	errBehind = errors.New("the member that is watched is behind the revision that was read, and stays behind")
)

// watcher takes in what one watch says.
type watcher struct {
	*Source
	out     *output
	from    int64     // the revision that was read
	start   time.Time // of the watch
	heard   time.Time // when the member said something last
	behind  bool      // what it said last was of a revision before the one that was read
	partial bool      // more fragments of an answer follow
	pending bool      // something was taken in and not published
}

// watch publishes what changes after the revision that was read. It returns why it ends. It speaks etcd's watch
// protocol itself: the client's Watcher resumes by itself after a failure, and then neither sees that it is talking to
// another cluster nor that revisions have started again, and waits for ever.
func (s *Source) watch(ctx context.Context, client *clientv3.Client, used *secrets, out *output) error {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx)) // a member that is cut off from its cluster ends the watch
	stream, err := s.openWatch(ctx, cancel, client)
	if err != nil {
		cancel()
		return fmt.Errorf("watch keys under %q: %w", s.prefix, plain(err))
	}
	answers, failure := receive(ctx, stream)
	defer func() { // the receiver has ended when watch returns
		cancel()
		for range answers {
		}
	}()
	w := &watcher{Source: s, out: out, from: s.store.revision, start: time.Now(), heard: time.Now()}
	tick := time.NewTicker(s.probe)
	defer tick.Stop()
	var due <-chan time.Time
	for {
		select {
		case a, ok := <-answers:
			if !ok {
				return fmt.Errorf("watch keys under %q: %w", s.prefix, plain(<-failure))
			}
			if err := w.take(a); err != nil {
				return err
			}
			if w.pending && !w.partial && due == nil {
				due = time.After(gap - time.Since(out.last)) // at once, if the last publication is long past
			}
		case <-due:
			due = nil
			if err := w.takeWaiting(answers); err != nil {
				return err
			}
		case <-tick.C:
			if err := w.check(stream, used); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// openWatch opens a stream and asks for what comes after the revision that was read.
func (s *Source) openWatch(ctx context.Context, cancel func(), client *clientv3.Client) (pb.Watch_WatchClient, error) {
	late := time.AfterFunc(s.requestTimeout, cancel)
	defer late.Stop()
	stream, err := pb.NewWatchClient(client.ActiveConnection()).Watch(ctx, grpc.MaxCallRecvMsgSize(maxMessage))
	if err == nil {
		err = send(stream, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{
			Key: []byte(s.prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(s.prefix)),
			StartRevision: s.store.revision + 1, Fragment: true,
		}}})
	}
	if !late.Stop() {
		return nil, errSilent
	}
	return stream, err
}

// send sends a request. Why a stream has ended is the receiver's to say.
func send(stream pb.Watch_WatchClient, r *pb.WatchRequest) error {
	if err := stream.Send(r); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// receive reads a stream until it ends or ctx does. Then answers is closed, and failure says why.
func receive(ctx context.Context, stream pb.Watch_WatchClient) (answers <-chan *pb.WatchResponse, failure <-chan error) {
	out, why := make(chan *pb.WatchResponse, readAhead), make(chan error, 1)
	go func() {
		defer close(out)
		why <- registry.Safely(func() error {
			for {
				a, err := stream.Recv()
				if err != nil {
					return err
				}
				select {
				case out <- a:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		})
	}()
	return out, why
}

// takeWaiting takes in what has come meanwhile and publishes it all in one.
func (w *watcher) takeWaiting(answers <-chan *pb.WatchResponse) error {
	for range readAhead {
		select {
		case a, ok := <-answers:
			if !ok {
				break // the loop sees it too
			}
			if err := w.take(a); err != nil {
				return err
			}
			continue
		default:
		}
		break
	}
	if !w.partial {
		w.pending = false
		w.tell(w.out)
	}
	return nil
}

// take takes in one answer.
func (w *watcher) take(a *pb.WatchResponse) error {
	w.heard = time.Now()
	switch {
	case a.GetHeader().GetClusterId() != w.store.cluster:
		return errClusters
	case a.CompactRevision != 0:
		return rpctypes.ErrCompacted
	case a.Canceled:
		return cancelled(a.CancelReason)
	}
	for _, e := range a.Events {
		if e.Kv.ModRevision <= w.from { // no member should send what it was not asked for
			continue
		}
		if e.Type == mvccpb.Event_DELETE {
			w.table.remove(e.Kv.Key)
		} else {
			w.table.put(e.Kv.Key, e.Kv.Value, e.Kv.CreateRevision)
		}
		w.pending = true
	}
	w.partial = a.Fragment
	now := a.Header.Revision
	w.behind = now < w.from
	if !w.behind {
		w.store.revision = max(w.store.revision, now)
	} else if time.Since(w.start) > w.probe+w.requestTimeout {
		return errBehind // a member may lag for a moment; one that was wiped would for ever
	}
	return nil
}

// cancelled returns what a member's reason to end a watch means. Old members send gRPC's text around it.
func cancelled(reason string) error {
	for _, known := range []error{rpctypes.ErrPermissionDenied, rpctypes.ErrInvalidAuthToken, rpctypes.ErrAuthOldRevision} {
		if strings.HasSuffix(reason, known.Error()) {
			return known
		}
	}
	return fmt.Errorf("the member ended the watch: %s", shorten(reason))
}

// check looks whether the member still answers and whether the files have changed.
func (w *watcher) check(stream pb.Watch_WatchClient, used *secrets) error {
	now, err := w.readSecrets()
	switch w.setSecrets(err); {
	case err != nil:
		w.complain()
	case now.sum != used.sum:
		return errRotated
	default:
		w.complain()
	}
	silent := time.Since(w.heard)
	if silent > w.probe+w.requestTimeout {
		if w.behind { // newer members say nothing more to a watch that is ahead of them
			return errBehind
		}
		return errSilent
	}
	if silent < w.probe/2 {
		return nil
	}
	return send(stream, &pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
}
