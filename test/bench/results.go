package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

// result is one row. A row without a target is there to be read beside the others.
type result struct {
	Name   string   `json:"name"`
	Value  float64  `json:"value"`
	Unit   string   `json:"unit"`
	Target *float64 `json:"target,omitempty"` // at most; in the same unit
	Met    *bool    `json:"met,omitempty"`
}

type results []result

// note adds a row without a target.
func (r *results) note(name string, value float64, unit string) {
	*r = append(*r, result{Name: name, Value: round(value), Unit: unit})
}

// require adds a row whose value should be at most target.
func (r *results) require(name string, value float64, unit string, target float64) {
	value, target = round(value), round(target)
	met := value <= target
	*r = append(*r, result{name, value, unit, &target, &met})
}

func round(x float64) float64 { return math.Round(x*1000) / 1000 }

func (r results) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	fmt.Fprintln(t, "WHAT\tVALUE\tTARGET\tMET")
	for _, x := range r {
		if x.Target == nil {
			fmt.Fprintf(t, "%s\t%.4g %s\t\t\n", x.Name, x.Value, x.Unit)
			continue
		}
		met := "yes"
		if !*x.Met {
			met = "NO"
		}
		fmt.Fprintf(t, "%s\t%.4g %s\t<= %.4g %s\t%s\n", x.Name, x.Value, x.Unit, *x.Target, x.Unit, met)
	}
	return t.Flush()
}

// save writes .bench/results.json.
func (r results) save() error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(".bench", 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(".bench", "results.json"), append(text, '\n'), 0o644)
}

// percentile returns the value that p of all are not above (nearest rank).
func percentile(all []time.Duration, p float64) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[max(0, int(math.Ceil(p*float64(len(sorted))))-1)]
}

func median[T int64 | float64 | time.Duration](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
func microseconds(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
func kilobytes(n int64) float64            { return float64(n) / 1024 }
func megabytes(n int64) float64            { return float64(n) / (1 << 20) }
