package store

import (
	"cmp"
	"errors"

	"go.etcd.io/bbolt"

	"github.com/wattle-mesh/wattle/internal/mesh"
	"github.com/wattle-mesh/wattle/registry"
)

// seated is where one workload is served.
type seated struct {
	Host     string        `json:"host"`
	Service  registry.Name `json:"service"`
	Instance string        `json:"instance,omitempty"`
	Proxy    string        `json:"proxy,omitempty"` // none: "host"
	Port     uint16        `json:"port"`
	Other    mesh.Seat     `json:"other,omitzero"`
}

// sharedProxy serves the workloads of a host that have no proxy of their own.
const sharedProxy = "host"

// numbered is a number that was given to a workload or a service.
type numbered struct {
	Host     string        `json:"host,omitempty"`
	Service  registry.Name `json:"service"`
	Instance string        `json:"instance,omitempty"`
	Number   uint16        `json:"number"`
}

// Allotted returns what was given to workloads and services.
func (s *Store) Allotted() (mesh.Allotted, error) {
	ports, errPorts := all[seated](s.db, portBucket)
	parts, errSlices := all[numbered](s.db, sliceBucket)
	places, errPlaces := all[numbered](s.db, addressBucket)
	out := mesh.Allotted{Ports: mesh.Allotment{}, Slices: mesh.Slices{}, Addresses: mesh.Addresses{}}
	for _, a := range ports {
		out.Ports[registry.WorkloadKey{Host: a.Host, Service: a.Service, Instance: a.Instance}] =
			mesh.Seats{Proxy: cmp.Or(a.Proxy, sharedProxy), MeshPort: a.Port, Other: a.Other}
	}
	for _, a := range parts {
		out.Slices[registry.WorkloadKey{Host: a.Host, Service: a.Service, Instance: a.Instance}] = a.Number
	}
	for _, a := range places {
		out.Addresses[a.Service] = a.Number
	}
	return out, errors.Join(errPorts, errSlices, errPlaces)
}

// SetAllotted replaces what was given to workloads and services. Only what differs is written.
func (s *Store) SetAllotted(now mesh.Allotted) error {
	seats, parts, places := map[string]seated{}, map[string]numbered{}, map[string]numbered{}
	for k, at := range now.Ports {
		seats[k.String()] = seated{k.Host, k.Service, k.Instance, at.Proxy, at.MeshPort, at.Other}
	}
	for k, n := range now.Slices {
		parts[k.String()] = numbered{k.Host, k.Service, k.Instance, n}
	}
	for name, n := range now.Addresses {
		places[name.String()] = numbered{Service: name, Number: n}
	}
	return s.update(func(tx *bbolt.Tx) error {
		return errors.Join(replace(tx, portBucket, seats), replace(tx, sliceBucket, parts), replace(tx, addressBucket, places))
	})
}

// replace writes what differs from the content of a bucket.
func replace[T comparable](tx *bbolt.Tx, bucket string, now map[string]T) error {
	for key, a := range now {
		if was, ok, err := get[T](tx, bucket, []byte(key)); err == nil && ok && was == a {
			continue
		}
		if err := put(tx, bucket, []byte(key), a); err != nil {
			return err
		}
	}
	b := tx.Bucket([]byte(bucket))
	var gone [][]byte
	err := b.ForEach(func(k, _ []byte) error {
		if _, stays := now[string(k)]; !stays {
			gone = append(gone, append([]byte(nil), k...))
		}
		return nil
	})
	for _, k := range gone {
		if err == nil {
			err = b.Delete(k)
		}
	}
	return err
}
