package builtin

import "testing"

func TestDriversAreSortedAndWhole(t *testing.T) {
	last := ""
	for _, d := range Drivers() {
		if d.Type <= last || d.New == nil {
			t.Errorf("driver %q after %q", d.Type, last)
		}
		last = d.Type
	}
}
