package etcd

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/wattle-mesh/wattle/registry"
)

// Farewell is how long the key of an instance that was deregistered stays, as draining: whoever reads etcd learns from it
// that the instance was meant to go. A key that is merely gone may be one that etcd lost.
const Farewell = 30 * time.Second

// The reasons of an instance's health during its farewell.
const (
	deregistered = "deregistered" // somebody wanted it to go
	left         = "its run has ended"
)

// Delete takes an instance out: it is draining at once, and its key goes by a lease after half a minute. It reports
// whether there was something to take out.
func (w *Writer) Delete(ctx context.Context, service registry.Name, instance string) (was bool, err error) {
	err = w.do(ctx, func(ctx context.Context) error {
		was, err = w.dismiss(ctx, w.Key(service, instance), 0)
		return err
	})
	return was, err
}

// dismiss is Delete of a key; with a revision only if the key was written last then, by who leaves.
func (w *Writer) dismiss(ctx context.Context, key string, revision int64) (was bool, err error) {
	why := deregistered
	if revision != 0 {
		why = left
	}
	for {
		got, err := w.client.Get(ctx, key)
		if err != nil || len(got.Kvs) == 0 {
			return false, err
		}
		kv := got.Kvs[0]
		if parted(kv.Value) || revision != 0 && kv.ModRevision != revision {
			return false, nil
		}
		lease, err := w.client.Grant(ctx, seconds(Farewell))
		if err != nil {
			return false, err
		}
		leave := clientv3.OpDelete(key) // what cannot be read has no endpoint that drains
		if value, ok := parting(kv.Value, why); ok {
			leave = clientv3.OpPut(key, string(value), clientv3.WithLease(lease.ID))
		}
		done, err := w.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", kv.ModRevision)).Then(leave).Commit()
		if err != nil || !done.Succeeded || leave.IsDelete() {
			_, _ = w.client.Revoke(ctx, lease.ID) // it ends by itself otherwise
		}
		switch {
		case err != nil:
			return false, err
		case done.Succeeded:
			w.release(ctx, clientv3.LeaseID(kv.Lease))
			return true, nil
		}
	}
}

// parting makes the value of an instance that leaves, if it is one.
func parting(value []byte, why string) ([]byte, bool) {
	var v map[string]any
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	if _, _, err := decode(value); err != nil || d.Decode(&v) != nil {
		return nil, false
	}
	v["health"], v["reason"] = registry.Draining, why
	out, err := json.Marshal(v)
	return out, err == nil
}

// parted reports whether a value is one of parting.
func parted(value []byte) bool {
	i, _, err := decode(value)
	return err == nil && i.Health == registry.Draining && (i.Reason == deregistered || i.Reason == left)
}

// dismissed reports whether a value is one of parting that somebody wanted to go, and not its run.
func dismissed(value []byte) bool {
	i, _, err := decode(value)
	return err == nil && i.Health == registry.Draining && i.Reason == deregistered
}

// release ends a lease that no key has; otherwise it ends by itself.
func (w *Writer) release(ctx context.Context, lease clientv3.LeaseID) {
	if lease == clientv3.NoLease {
		return
	}
	if left, err := w.client.TimeToLive(ctx, lease, clientv3.WithAttachedKeys()); err == nil && len(left.Keys) == 0 {
		_, _ = w.client.Revoke(ctx, lease)
	}
}
