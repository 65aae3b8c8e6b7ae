package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// accessLine is what the translator's access log has that helps at a glance.
type accessLine struct {
	Time     time.Time `json:"time"`
	At       string    `json:"at"`
	Method   string    `json:"method"` // empty: a TCP connection
	Path     string    `json:"path"`
	Status   int       `json:"status"` // zero: none was sent
	Flags    string    `json:"flags"`
	Details  string    `json:"details"`
	Failure  string    `json:"failure"`
	Upstream string    `json:"upstream"`
	TookMS   int       `json:"took_ms"`
	Attempts int       `json:"attempts"`
}

// brief makes a short line of a JSON line of Envoy's access log, and leaves any other line alone. The agent itself writes
// the JSON, which is for machines.
func brief(line string) string {
	if !strings.HasPrefix(line, "{") {
		return line
	}
	var a accessLine
	if json.Unmarshal([]byte(line), &a) != nil || a.At == "" || a.Time.IsZero() {
		return line
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s:", a.Time.Local().Format(logTime), a.At)
	if a.Method != "" {
		fmt.Fprintf(&b, " %s %s", a.Method, a.Path)
	}
	if a.Status != 0 {
		fmt.Fprintf(&b, " %d", a.Status)
	}
	if strings.Contains(a.Details, a.Failure) {
		a.Failure = ""
	}
	for _, word := range []string{a.Flags, a.Details, a.Failure} {
		if word != "" {
			b.WriteString(" " + word)
		}
	}
	if a.Upstream != "" {
		b.WriteString(", upstream " + a.Upstream)
	}
	fmt.Fprintf(&b, ", %d ms", a.TookMS)
	if a.Attempts > 1 {
		fmt.Fprintf(&b, ", %d attempts", a.Attempts)
	}
	return b.String()
}
