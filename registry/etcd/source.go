package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v5"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/wattle-mesh/wattle/registry"
)

const (
	pageSize  = 1000 // keys of one answer
	maxRounds = 3    // sessions in a row that may end early before the registry counts as unreadable

	steady     = 10 * time.Second
	firstPause = 50 * time.Millisecond
	maxPause   = time.Second
)

// errRotated ends a session whose password or certificates have changed.
var errRotated = errors.New("the password or the certificates changed")

// Run implements registry.Source. A session is a connection, a full read and a watch from the revision that was read.
// When its watch ends (its member goes, there is no leader, the revision was compacted) the next session reads all
// anew, at another member if need be; the last set stays meanwhile. Run fails when nothing can be read, and when
// several sessions in a row end early.
func (s *Source) Run(ctx context.Context, publish func([]*registry.Service)) error {
	out := &output{publish: publish}
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.MaxInterval = firstPause, maxPause
	for round := 1; ; round++ {
		start := time.Now()
		read, err := s.session(ctx, out)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errRotated) {
			s.log.Info("etcd is connected to anew", "reason", err)
			round = 0
			continue
		}
		if time.Since(start) >= s.steady {
			round = 1
			pauses.Reset()
		}
		if !read && !errors.Is(err, errStale) || round >= maxRounds {
			return fmt.Errorf("etcd %s: %w", s.name, s.explain(err))
		}
		pause := pauses.NextBackOff()
		s.log.Info("etcd's watch ended, all is read anew", "reason", s.explain(err), "in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
	}
}

// output is where a run's sets go.
type output struct {
	publish func([]*registry.Service)
	synced  bool      // something was published
	last    time.Time // when
}

// tell publishes the services if they have changed or nothing was published yet, and reports what is wrong.
func (s *Source) tell(out *output) {
	services, changed := s.table.services()
	if changed || !out.synced {
		out.publish(services)
		out.synced, out.last = true, time.Now()
	}
	s.complain()
}

// complain reports what is wrong with single keys and with the files, if that has changed.
func (s *Source) complain() {
	ds, changed := s.table.faults.diagnostics()
	if !changed {
		return
	}
	if s.secrets != "" {
		ds = append(ds, registry.Diagnostic{Severity: registry.Error, Code: registry.BadSecrets,
			Summary: "the password or the certificates changed and cannot be used: " + s.secrets,
			Detail:  "The connection stays as it was made before. The files are read again every few seconds."})
	}
	s.report(slices.Clip(ds))
}

// session connects, reads all and watches until that fails. read says whether all was read and published.
func (s *Source) session(ctx context.Context, out *output) (read bool, err error) {
	secrets, err := s.readSecrets()
	if err != nil {
		return false, err
	}
	s.setSecrets(nil)
	client, err := s.connect(ctx, secrets)
	if err != nil {
		return false, fmt.Errorf("connect: %w", plain(err))
	}
	defer client.Close()
	if err := s.readAll(ctx, client); err != nil {
		return false, err
	}
	s.tell(out)
	return true, s.watch(ctx, client, secrets, out)
}

// setSecrets remembers what is wrong with the files.
func (s *Source) setSecrets(err error) {
	said := ""
	if err != nil {
		said = err.Error()
	}
	if said != s.secrets {
		s.secrets, s.table.faults.changed = said, true
	}
}

// readAll takes in all keys under the prefix. A read whose revision is compacted on the way begins again.
func (s *Source) readAll(ctx context.Context, client *clientv3.Client) error {
	for attempt := 1; ; attempt++ {
		err := s.readOnce(ctx, client)
		if attempt == maxRounds || !errors.Is(err, rpctypes.ErrCompacted) {
			return err
		}
	}
}

// readOnce takes in all keys under the prefix as they are at one revision, page by page.
func (s *Source) readOnce(ctx context.Context, client *clientv3.Client) error {
	var at store
	from, end, limit, keys := s.prefix, clientv3.GetPrefixRangeEnd(s.prefix), int64(pageSize), 0
	s.table.begin()
	for {
		page, err := s.page(ctx, client, from, clientv3.WithRange(end), clientv3.WithLimit(limit), clientv3.WithRev(at.revision))
		if status.Code(err) == codes.ResourceExhausted && limit > 1 { // huge values: an answer is at most maxMessage
			limit = max(1, limit/10)
			continue
		}
		if err != nil {
			return fmt.Errorf("read keys under %q: %w", s.prefix, plain(err))
		}
		if at.cluster == 0 {
			at = store{page.Header.ClusterId, page.Header.Revision}
		}
		if page.Header.ClusterId != at.cluster {
			return errClusters
		}
		for _, kv := range page.Kvs {
			s.table.put(kv.Key, kv.Value, kv.CreateRevision)
		}
		keys += len(page.Kvs)
		if !page.More || len(page.Kvs) == 0 {
			break
		}
		from = string(page.Kvs[len(page.Kvs)-1].Key) + "\x00"
	}
	s.admit(at, keys)
	s.table.sweep()
	return nil
}

func (s *Source) page(ctx context.Context, client *clientv3.Client, from string, opts ...clientv3.OpOption) (*clientv3.GetResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, s.requestTimeout)
	defer cancel()
	return client.Get(ctx, from, opts...)
}

// errClusters is an answer of another cluster than the one before.
var errClusters = errors.New("the endpoints belong to different clusters, or one was made anew just now; name members of one cluster")

// admit takes note of which life of the cluster was read. Data of another life replaces what was known, even if there
// is none: whether a disappearance is believed is the Aggregator's to decide, for all registries alike.
func (s *Source) admit(at store, keys int) {
	was := s.store
	if was.cluster != 0 && (at.cluster != was.cluster || at.revision < was.revision) {
		s.log.Warn("etcd's data was wiped, restored or replaced, it is taken as it is now", "cluster", fmt.Sprintf("%x", at.cluster),
			"cluster_before", fmt.Sprintf("%x", was.cluster), "revision", at.revision, "revision_before", was.revision, "keys", keys)
	}
	s.store = at
}
