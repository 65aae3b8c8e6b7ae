package etcd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/wattle-mesh/wattle/registry"
)

// What errors.Is finds in the errors of a Writer.
var (
	ErrEntry   = errors.New("no instance can be written so")
	ErrMissing = errors.New("there is no such key")
	ErrNoLease = errors.New("the key has no lease")
	ErrEnded   = errors.New("the key was deregistered")
)

// WriterOptions are the attributes of a registry block, for who has none. Empty ones are not set.
type WriterOptions struct {
	Endpoints                             []string
	Prefix, Username, PasswordFile        string
	CAFile, CertFile, KeyFile, ServerName string
}

// Writer writes instances into a cluster as a Source reads them. Not for concurrent use.
type Writer struct {
	config
	client *clientv3.Client // nil: not connected
	held   map[string]int64 // the revision at which Hold wrote a key
	ended  map[string]bool  // keys that Hold found deregistered
}

// OpenWriter makes a Writer for the cluster of a registry block. It connects to nothing yet. The Writer is nil if the
// diagnostics have errors.
func OpenWriter(b hcl.Body, o registry.DriverOptions) (*Writer, hcl.Diagnostics) {
	s, diags := open(b, o)
	if diags.HasErrors() {
		return nil, diags
	}
	return &Writer{config: s.(*Source).config}, diags
}

// NewWriter makes a Writer for the cluster that the options name.
func NewWriter(o WriterOptions, d registry.DriverOptions) (*Writer, error) {
	f := hclwrite.NewEmptyFile()
	set := func(b *hclwrite.Body, name, value string) {
		if value != "" {
			b.SetAttributeValue(name, cty.StringVal(value))
		}
	}
	var endpoints []cty.Value
	for _, e := range o.Endpoints {
		endpoints = append(endpoints, cty.StringVal(e))
	}
	if len(endpoints) > 0 {
		f.Body().SetAttributeValue("endpoints", cty.ListVal(endpoints))
	}
	set(f.Body(), "prefix", o.Prefix)
	set(f.Body(), "username", o.Username)
	set(f.Body(), "password_file", absolute(o.PasswordFile))
	if o.CAFile+o.CertFile+o.KeyFile+o.ServerName != "" {
		tls := f.Body().AppendNewBlock("tls", nil).Body()
		set(tls, "ca_file", absolute(o.CAFile))
		set(tls, "cert_file", absolute(o.CertFile))
		set(tls, "key_file", absolute(o.KeyFile))
		set(tls, "server_name", o.ServerName)
	}
	parsed, diags := hclparse.NewParser().ParseHCL(f.Bytes(), "flags")
	if diags.HasErrors() {
		return nil, diags
	}
	w, diags := OpenWriter(parsed.Body, d)
	for _, one := range diags {
		if one.Severity == hcl.DiagError {
			return nil, fmt.Errorf("%s: %s", one.Summary, one.Detail)
		}
	}
	return w, nil
}

// absolute keeps a path what it is for the user: relative to the working folder.
func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil && path != "" {
		return abs
	}
	return path
}

// Close ends the connection. The Writer can be used again.
func (w *Writer) Close() {
	if w.client != nil {
		_ = w.client.Close() // nothing is under way
		w.client = nil
	}
}

// Key is where an instance is written.
func (w *Writer) Key(service registry.Name, instance string) string {
	return w.prefix + service.String() + "/" + instance
}

// Put writes an instance, with a lease that needs a Beat within ttl if that is not zero. It changes nothing, and is a Beat, if
// the key says so already. Errors match ErrEntry if a Source would not take what was to be written.
func (w *Writer) Put(ctx context.Context, e Entry, ttl time.Duration) (changed bool, err error) {
	value, err := w.encode(e)
	if err != nil {
		return false, err
	}
	err = w.do(ctx, func(ctx context.Context) error {
		changed, err = w.put(ctx, w.Key(e.Service, e.Instance), value, seconds(ttl))
		return err
	})
	return changed, err
}

// Hold is Put by who ends what it writes, with Leave, and nothing that another has written since. The first time it takes the key
// over, whatever it says; when it renews, it changes nothing if the key is another's. Errors match ErrEnded if it renews what
// somebody has deregistered since, as the farewell tells; from then on it stays so, until the key is taken over again.
func (w *Writer) Hold(ctx context.Context, e Entry, ttl time.Duration, renew bool) (changed bool, err error) {
	value, err := w.encode(e)
	if err != nil {
		return false, err
	}
	key := w.Key(e.Service, e.Instance)
	err = w.do(ctx, func(ctx context.Context) error {
		changed, err = w.hold(ctx, key, value, seconds(ttl), renew)
		return err
	})
	return changed, err
}

func (w *Writer) hold(ctx context.Context, key string, value []byte, ttl int64, renew bool) (changed bool, err error) {
	if renew && w.ended[key] {
		return false, ErrEnded
	}
	for {
		var seen []clientv3.Cmp // what must be so still when it is written
		if renew {
			rev, keep, err := w.standing(ctx, key)
			if err != nil || keep {
				return false, err
			}
			seen = []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", rev)}
		}
		at, err := w.write(ctx, key, value, ttl, seen...)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return false, err
		}
		if w.held == nil {
			w.held = map[string]int64{}
		}
		w.held[key] = at
		delete(w.ended, key)
		return true, nil
	}
}

// standing looks what has become of a key that Hold wrote, and keeps it alive. keep says that it stays as it is; if not it is to be
// written anew, over what is there of the revision rev, 0 for nothing.
func (w *Writer) standing(ctx context.Context, key string) (rev int64, keep bool, err error) {
	got, err := w.client.Get(ctx, key)
	if err != nil || len(got.Kvs) == 0 {
		return 0, false, err
	}
	kv := got.Kvs[0]
	switch {
	case dismissed(kv.Value):
		if w.ended == nil {
			w.ended = map[string]bool{}
		}
		w.ended[key] = true
		return 0, false, ErrEnded
	case parted(kv.Value):
		return kv.ModRevision, false, nil
	case kv.ModRevision != w.held[key] || kv.Lease == 0:
		return 0, true, nil
	}
	_, err = w.client.KeepAliveOnce(ctx, clientv3.LeaseID(kv.Lease))
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return kv.ModRevision, false, nil
	}
	return 0, true, err
}

// Leave is Delete of what Hold wrote, unless another has written it since.
func (w *Writer) Leave(ctx context.Context, service registry.Name, instance string) (was bool, err error) {
	key := w.Key(service, instance)
	err = w.do(ctx, func(ctx context.Context) error {
		at, ok := w.held[key]
		if !ok {
			return nil // it has written nothing
		}
		was, err = w.dismiss(ctx, key, at)
		return err
	})
	return was, err
}

// seconds rounds up: etcd counts in whole ones.
func seconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }

func (w *Writer) put(ctx context.Context, key string, value []byte, ttl int64) (changed bool, err error) {
	got, err := w.client.Get(ctx, key)
	if err != nil {
		return false, err
	}
	if len(got.Kvs) == 1 && bytes.Equal(got.Kvs[0].Value, value) {
		same, err := w.leased(ctx, clientv3.LeaseID(got.Kvs[0].Lease), ttl)
		if err != nil || same {
			return false, err
		}
	}
	_, err = w.write(ctx, key, value, ttl)
	return err == nil, err
}

// errMoved is that a key is not what it was.
var errMoved = errors.New("the key has changed")

// write puts a key with a lease of its own, and returns the revision of that. Errors match errMoved if it is not as seen.
func (w *Writer) write(ctx context.Context, key string, value []byte, ttl int64, seen ...clientv3.Cmp) (revision int64, err error) {
	var lease clientv3.LeaseID
	if ttl != 0 {
		got, err := w.client.Grant(ctx, ttl)
		if err != nil {
			return 0, err
		}
		lease = got.ID
	}
	got, err := w.client.Txn(ctx).If(seen...).Then(clientv3.OpPut(key, string(value), clientv3.WithLease(lease))).Commit()
	if err == nil && !got.Succeeded {
		err = errMoved
	}
	if err != nil {
		if lease != clientv3.NoLease {
			_, _ = w.client.Revoke(ctx, lease) // it ends by itself otherwise
		}
		return 0, err
	}
	return got.Header.Revision, nil
}

// leased reports whether a lease is one of that ttl, none for 0, and keeps it alive if so.
func (w *Writer) leased(ctx context.Context, lease clientv3.LeaseID, ttl int64) (bool, error) {
	if lease == clientv3.NoLease || ttl == 0 {
		return lease == clientv3.NoLease && ttl == 0, nil
	}
	left, err := w.client.TimeToLive(ctx, lease)
	if errors.Is(err, rpctypes.ErrLeaseNotFound) || err == nil && (left.TTL < 0 || left.GrantedTTL != ttl) {
		return false, nil
	}
	if err == nil {
		_, err = w.client.KeepAliveOnce(ctx, lease)
	}
	if errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Beat keeps the lease of an instance alive. Errors match ErrMissing if it is not there (any more), and ErrNoLease.
func (w *Writer) Beat(ctx context.Context, service registry.Name, instance string) error {
	return w.do(ctx, func(ctx context.Context) error {
		got, err := w.client.Get(ctx, w.Key(service, instance))
		switch {
		case err != nil:
			return err
		case len(got.Kvs) == 0 || parted(got.Kvs[0].Value):
			return ErrMissing
		case got.Kvs[0].Lease == 0:
			return ErrNoLease
		}
		_, err = w.client.KeepAliveOnce(ctx, clientv3.LeaseID(got.Kvs[0].Lease))
		if errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return ErrMissing
		}
		return err
	})
}

// do connects if need be and asks. After a failure the next one connects anew, with what the files say then.
func (w *Writer) do(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, w.dialTimeout+w.requestTimeout)
	defer cancel()
	err := func() error {
		if w.client == nil {
			s, err := w.readSecrets()
			if err != nil {
				return err
			}
			// The client outlives this request.
			client, err := w.connect(context.WithoutCancel(ctx), s)
			if err != nil {
				return err
			}
			w.client = client
		}
		return ask(ctx)
	}()
	if err == nil || errors.Is(err, ErrMissing) || errors.Is(err, ErrNoLease) || errors.Is(err, ErrEnded) {
		return err
	}
	w.Close()
	if err = plain(err); errors.Is(err, rpctypes.ErrPermissionDenied) {
		return fmt.Errorf("etcd: %w; grant a role of the user: etcdctl role grant-permission ROLE --prefix=true readwrite %s", err, w.prefix)
	}
	return fmt.Errorf("etcd: %w", w.explain(err))
}
