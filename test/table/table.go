// Package table is what measurements come to: rows of a name, a value and perhaps a target, printed and saved as JSON.
package table

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"text/tabwriter"
)

// Row is one measurement. A row without a target is there to be read beside the others.
type Row struct {
	Name   string   `json:"name"`
	Value  float64  `json:"value"`
	Unit   string   `json:"unit"`
	Target *float64 `json:"target,omitempty"` // at most; in the same unit
	Met    *bool    `json:"met,omitempty"`
}

// Rows are all rows, in the order in which they were measured. The zero value is empty.
type Rows []Row

// Note adds a row without a target.
func (r *Rows) Note(name string, value float64, unit string) {
	*r = append(*r, Row{Name: name, Value: round(value), Unit: unit})
}

// Require adds a row whose value should be at most target.
func (r *Rows) Require(name string, value float64, unit string, target float64) {
	value, target = round(value), round(target)
	met := value <= target
	*r = append(*r, Row{name, value, unit, &target, &met})
}

func round(x float64) float64 { return math.Round(x*1000) / 1000 }

// Missed counts the rows whose target was not met.
func (r Rows) Missed() (n int) {
	for _, x := range r {
		if x.Met != nil && !*x.Met {
			n++
		}
	}
	return n
}

// Write prints the table.
func (r Rows) Write(w io.Writer) error {
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

// Save writes DIR/results.json.
func (r Rows) Save(dir string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "results.json"), append(text, '\n'), 0o644)
}
