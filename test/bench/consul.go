package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// consul measures how long the change of one of 3000 instances of 1000 services in a real Consul takes to the catalog, both
// ways in which it is read. The driver's own benchmark does it.
func (d *driver) consul(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "go", "test", "./registry/consul", "-run", "^$", "-bench", "^BenchmarkChange$", "-benchtime", fmt.Sprintf("%dx", d.effort.changes))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	measured := metrics(out)
	for _, way := range []struct {
		name, how   string
		connections float64
	}{{"TLS", "over HTTP/2 and TLS", 8}, {"plaintext", "over HTTP/1.1", 50}} {
		m := measured[way.name]
		if len(m) == 0 {
			return fmt.Errorf("no results of %s in %s", way.name, out)
		}
		d.out.Require("change of one of 3000 instances in Consul "+way.how+" to the catalog, p50", m["median-ms"], "ms", 500)
		d.out.Note("the longest of them, "+way.how, m["longest-ms"], "ms")
		d.out.Require("connections to Consul "+way.how, m["connections"], "connections", way.connections)
	}
	return nil
}

// metrics reads what go test -bench prints: by sub-benchmark and unit.
func metrics(out []byte) map[string]map[string]float64 {
	all := map[string]map[string]float64{}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || !strings.HasPrefix(fields[0], "BenchmarkChange/") {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(fields[0], "BenchmarkChange/"), "-")
		m := map[string]float64{}
		for i := 2; i+1 < len(fields); i += 2 {
			if v, err := strconv.ParseFloat(fields[i], 64); err == nil {
				m[fields[i+1]] = v
			}
		}
		all[name] = m
	}
	return all
}
