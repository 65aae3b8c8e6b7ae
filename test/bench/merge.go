package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/wattle-mesh/wattle/registry"
)

// The catalog that is merged: every registry has an endpoint of every service.
const (
	mergedServices   = 5000
	mergedRegistries = 4
)

// mergeRole merges four registries, and then changes of one endpoint.
type mergeRole struct {
	sets    []registry.Set
	catalog *registry.Catalog
}

// mergeTimes are how long one endpoint's change took.
type mergeTimes struct {
	Took    time.Duration `json:"took"`
	Changed int           `json:"changed"` // services
}

func (m *mergeRole) do(_ context.Context, name string, arg json.RawMessage) (any, error) {
	switch name {
	case "fill":
		m.sets = nil
		for i := range mergedRegistries {
			set := registry.Set{Name: fmt.Sprintf("registry-%d", i)}
			for j := range mergedServices {
				set.Services = append(set.Services, merged(i, j, 8080))
			}
			m.sets = append(m.sets, set)
		}
		return nil, nil
	case "merge":
		began := time.Now()
		m.catalog = registry.Merge(nil, m.sets, nil)
		return &mergeTimes{time.Since(began), len(m.catalog.Changed)}, nil
	case "change":
		var n int
		if err := json.Unmarshal(arg, &n); err != nil {
			return nil, err
		}
		const registryOf, service = 2, mergedServices / 2
		set := m.sets[registryOf]
		set.Services = slices.Clone(set.Services)
		set.Services[service] = merged(registryOf, service, 8081+uint16(n))
		m.sets = slices.Clone(m.sets)
		m.sets[registryOf] = set
		began := time.Now()
		m.catalog = registry.Merge(m.catalog, m.sets, nil)
		return &mergeTimes{time.Since(began), len(m.catalog.Changed)}, nil
	}
	return nil, fmt.Errorf("no order %q", name)
}

// merged makes service j as registry i has it.
func merged(i, j int, port uint16) *registry.Service {
	return &registry.Service{
		Name:  serviceName(j),
		Ports: []registry.Port{{Number: 80, Protocol: registry.HTTP}},
		Endpoints: []*registry.Endpoint{{
			Address: netip.AddrFrom4([4]byte{10, byte(i), byte(j >> 8), byte(j)}), Port: port, ServicePort: 80,
			Meta: registry.LabelsOf(map[string]string{"version": "v1"}),
		}},
	}
}

// merge measures the merge of four registries with 20,000 endpoints of 5000 services, and what it costs in memory.
func (d *driver) merge(ctx context.Context) error {
	c, err := spawn(ctx, "merge", d.dir)
	if err != nil {
		return err
	}
	empty, err := ask[int64](c, "memory", nil)
	if err != nil {
		return err
	}
	if _, err := ask[any](c, "fill", nil); err != nil {
		return err
	}
	var whole, one []time.Duration
	var full int64
	for range d.effort.repeats {
		t, err := ask[*mergeTimes](c, "merge", nil)
		if err != nil {
			return err
		}
		if t.Changed != mergedServices {
			return fmt.Errorf("%d services merged", t.Changed)
		}
		whole = append(whole, t.Took)
		if full == 0 { // a server merges from nothing once
			if full, err = ask[int64](c, "memory", nil); err != nil {
				return err
			}
		}
	}
	for i := range 50 * d.effort.repeats {
		t, err := ask[*mergeTimes](c, "change", i)
		if err != nil {
			return err
		}
		if t.Changed != 1 {
			return fmt.Errorf("one endpoint changed %d services", t.Changed)
		}
		one = append(one, t.Took)
	}
	d.out.Require("5000 services and 20,000 endpoints of four registries: merge from nothing", milliseconds(median(whole)), "ms", 60)
	d.out.Require("one endpoint's change among them", microseconds(median(one)), "us", 50)
	d.out.Require("memory per endpoint, of the registries and the catalog", kilobytes((full-empty)/(mergedServices*mergedRegistries)), "KB", 1.2)
	return c.stop()
}
