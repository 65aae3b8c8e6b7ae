package xds

import "testing"

func TestStampsOfOneStoreHaveAnOrder(t *testing.T) {
	for _, c := range []struct {
		a, b Stamp
		want bool
	}{
		{Stamp{"s", 1, 1}, Stamp{"s", 1, 1}, false},
		{Stamp{"s", 1, 2}, Stamp{"s", 1, 1}, false},
		{Stamp{"s", 1, 1}, Stamp{"s", 2, 1}, true},
		{Stamp{"s", 1, 9}, Stamp{"s", 2, 1}, true}, // more was written, but not of the policy that was in force
		{Stamp{"s", 2, 1}, Stamp{"s", 1, 2}, true},
		{Stamp{"other", 1, 1}, Stamp{"s", 2, 2}, false},
		{Stamp{"s", 1, 1}, Stamp{}, false},
	} {
		if got := c.a.Before(c.b); got != c.want {
			t.Errorf("%v before %v: %v", c.a, c.b, got)
		}
	}
	if s, ok := ParseStamp(Stamp{"s", 3, 4}.String()); !ok || s != (Stamp{"s", 3, 4}) {
		t.Errorf("%v, %v", s, ok)
	}
	for _, text := range []string{"", "12", "/1/2", "s/1", "s/x/2", "s/1/-2", "s/1/2/3"} {
		if s, ok := ParseStamp(text); ok {
			t.Errorf("%q is read as %v", text, s)
		}
	}
	if text := (Stamp{}).String(); text != "" {
		t.Errorf("none is %q", text)
	}
}
