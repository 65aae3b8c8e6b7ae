package etcd

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/wattle-mesh/wattle/registry"
)

// Entry is an instance as a Writer writes it.
type Entry struct {
	Service  registry.Name
	Instance string
	Address  netip.Addr
	Ports    []EntryPort
	Meta     map[string]string
	Weight   uint32 // zero means 1
}

// EntryPort is a port of the service, and where at the address it is served; zero: at its number.
type EntryPort struct {
	registry.Port
	Target uint16
}

// Check says what of an instance cannot be written. Its errors match ErrEntry.
func (w *Writer) Check(e Entry) error {
	_, err := w.encode(e)
	return err
}

// encode makes the value, and reads it as a Source will.
func (w *Writer) encode(e Entry) ([]byte, error) {
	type port struct {
		Number   uint16            `json:"number"`
		Target   uint16            `json:"target,omitempty"`
		Protocol registry.Protocol `json:"protocol,omitempty"`
		Name     string            `json:"name,omitempty"`
	}
	out := struct {
		Address string            `json:"address"`
		Ports   []port            `json:"ports"`
		Meta    map[string]string `json:"meta,omitempty"`
		Weight  uint32            `json:"weight,omitempty"`
	}{Address: e.Address.String(), Meta: e.Meta, Weight: e.Weight}
	for _, p := range e.Ports {
		out.Ports = append(out.Ports, port{p.Number, p.Target, p.Protocol, p.Name})
	}
	value, err := json.Marshal(out)
	if err != nil {
		return nil, err
	}
	if _, _, err := decode(value); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	key := w.Key(e.Service, e.Instance)
	if _, _, ok := newTable(w.prefix).split(key); !ok {
		return nil, fmt.Errorf("%w: %q is no key NAMESPACE/SERVICE/INSTANCE", ErrEntry, key)
	}
	return value, nil
}
