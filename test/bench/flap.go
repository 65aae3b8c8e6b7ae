package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/procfs"
)

// What flaps: instances of some services, each once a second.
const (
	flappers  = 10
	flapping  = 100
	flapShort = 10 * time.Second
	flapLong  = 30 * time.Second
)

func flapper(i int) string { return fmt.Sprintf("flapping-%d", i) }

// flap measures what instances cost that change their health every second, in a real registry, through the server, to
// real Envoys.
func (f *field) flap(ctx context.Context, d *driver) error {
	length := flapLong
	if d.short {
		length = flapShort
	}
	for i := range flapping {
		if err := f.setFlapping(ctx, i, true); err != nil {
			return err
		}
	}
	hosts := []*host{f.host, f.other}
	for _, h := range hosts {
		if err := await(ctx, "Envoy with what flaps", func() error { return h.shows(ctx, flapping, "10.8.0.") }); err != nil {
			return err
		}
	}
	if err := rest(ctx, quiet); err != nil {
		return err
	}
	before, err := counts(ctx, hosts)
	if err != nil {
		return err
	}
	used, err := processTime(f.server)
	if err != nil {
		return err
	}
	began := time.Now()
	// Each is changed once a second, one after the other: what is done at the same moment would be gathered anyway.
	tick := time.NewTicker(time.Second / flapping)
	defer tick.Stop()
	n := 0
	for ; time.Since(began) < length; n++ {
		if err := f.setFlapping(ctx, n%flapping, n/flapping%2 == 1); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	after, err := counts(ctx, hosts)
	if err != nil {
		return err
	}
	now, err := processTime(f.server)
	if err != nil {
		return err
	}
	took := time.Since(began)
	if rate := float64(n) / took.Seconds(); rate < 0.9*flapping {
		return fmt.Errorf("etcd took only %.0f changes a second", rate)
	}
	var pushes []float64
	for key, was := range before {
		pushes = append(pushes, float64(after[key]-was))
	}
	if len(pushes) != flappers*len(hosts) || slices.Min(pushes) == 0 {
		return fmt.Errorf("the Envoys have heard of %v", pushes)
	}
	// One a second is one more than there are seconds, if the first comes at once.
	d.out.Require(fmt.Sprintf("100 instances of 10 services flap at 1 Hz for %.0f s: endpoint pushes of a service to an Envoy, at most", length.Seconds()),
		slices.Max(pushes), "pushes", took.Seconds()+1)
	d.out.Require("server CPU meanwhile, of a core", 100*(now-used).Seconds()/took.Seconds(), "%", 20)
	return nil
}

// setFlapping writes an instance to etcd.
func (f *field) setFlapping(ctx context.Context, i int, healthy bool) error {
	health := "unhealthy"
	if healthy {
		health = "healthy"
	}
	_, err := f.etcd.Put(ctx, fmt.Sprintf("/wattle/services/default/%s/i%d", flapper(i%flappers), i),
		fmt.Sprintf(`{"address": "10.8.0.%d", "ports": [{"number": 80}], "health": %q}`, i+1, health))
	return err
}

// counts returns how many updates of its endpoints each cluster of what flaps has had, in each Envoy.
func counts(ctx context.Context, hosts []*host) (map[string]uint64, error) {
	out := map[string]uint64{}
	for _, h := range hosts {
		text, err := h.ask(ctx, "/stats?format=json&filter=^cluster\\..*flapping.*\\.update_success$")
		if err != nil {
			return nil, err
		}
		var all struct {
			Stats []struct {
				Name  string
				Value uint64
			}
		}
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			return nil, err
		}
		for _, s := range all.Stats {
			if strings.HasSuffix(s.Name, ".update_success") {
				out[h.run+" "+s.Name] = s.Value
			}
		}
	}
	return out, nil
}

// processTime returns the processor time that a process has used.
func processTime(pid int) (time.Duration, error) {
	p, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	s, err := p.Stat()
	return time.Duration(s.CPUTime() * float64(time.Second)), err
}
