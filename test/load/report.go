package load

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// shown is how many failures a table lists.
const shown = 10

// Report is what became of requests.
type Report struct {
	Results []Result // sorted by Due
}

// Summary is the figures of one kind, or of all.
type Summary struct {
	Kind              Kind // empty: all
	Sent              int
	Failed            int // transport error, timeout, unexpected status or wrong body
	Retried           int // took a proxy more than one try
	Resent            int // sent again by the client itself
	P50, P99, Longest time.Duration
}

// Window returns the part of the report that is about requests due from from on and before to. A zero time
// does not bound.
func (r *Report) Window(from, to time.Time) *Report {
	return r.Where(func(x Result) bool {
		return !x.Due.Before(from) && (to.IsZero() || x.Due.Before(to))
	})
}

// Where returns the part of the report whose results keep holds of.
func (r *Report) Where(keep func(Result) bool) *Report {
	out := new(Report)
	for _, x := range r.Results {
		if keep(x) {
			out.Results = append(out.Results, x)
		}
	}
	return out
}

// Failed returns the part of the report that is about requests that failed.
func (r *Report) Failed() *Report { return r.Where(func(x Result) bool { return x.Err != nil }) }

// Without splits the failures in those that a process had received before it was killed, which nobody can answer any
// more, and those that remain. received is what echo.Receipts says of that process.
func (r *Report) Without(received map[string]int) (lost, failed *Report) {
	f := r.Failed()
	return f.Where(func(x Result) bool { return received[x.ID] > 0 }),
		f.Where(func(x Result) bool { return received[x.ID] == 0 })
}

// Count says how many of the requests that did not fail have which key.
func (r *Report) Count(key func(Result) string) map[string]int {
	out := map[string]int{}
	for _, x := range r.Results {
		if x.Err == nil {
			out[key(x)]++
		}
	}
	return out
}

// All returns the figures of all kinds together.
func (r *Report) All() Summary {
	s := Summary{Sent: len(r.Results)}
	took := make([]time.Duration, 0, len(r.Results))
	for _, x := range r.Results {
		if x.Err != nil {
			s.Failed++
		}
		if x.Attempts > 1 {
			s.Retried++
		}
		if x.Resent > 0 {
			s.Resent++
		}
		took = append(took, x.Took)
	}
	if len(took) > 0 {
		slices.Sort(took)
		s.P50, s.P99, s.Longest = took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
	}
	return s
}

// Kinds returns the figures of each kind that was sent, sorted by kind.
func (r *Report) Kinds() []Summary {
	var kinds []Kind
	for _, x := range r.Results {
		if !slices.Contains(kinds, x.Kind) {
			kinds = append(kinds, x.Kind)
		}
	}
	slices.Sort(kinds)
	out := make([]Summary, 0, len(kinds))
	for _, k := range kinds {
		s := r.Where(func(x Result) bool { return x.Kind == k }).All()
		s.Kind = k
		out = append(out, s)
	}
	return out
}

// String returns a table of the figures, and the first failures.
func (r *Report) String() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(w, "kind\tsent\tfailed\tretried\tresent\tp50\tp99\tlongest\t\n")
	for _, s := range append(r.Kinds(), r.All()) {
		kind := s.Kind
		if kind == "" {
			kind = "all"
		}
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%d\t%s\t%s\t%s\t\n", kind, s.Sent, s.Failed, s.Retried, s.Resent,
			round(s.P50), round(s.P99), round(s.Longest))
	}
	w.Flush()
	failed := r.Failed().Results
	for i, x := range failed {
		if i == shown {
			fmt.Fprintf(&b, "and %d failures more\n", len(failed)-shown)
			break
		}
		fmt.Fprintf(&b, "%s %s after %s: %v\n", x.Due.Format("15:04:05.000"), x.ID, round(x.Took), x.Err)
	}
	return b.String()
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }
