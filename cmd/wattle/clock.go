package main

import (
	"fmt"
	"os"
	"time"
)

// clockFrom is set by the builds of tests alone, by the linker: the name of an environment variable that says how wrong this
// program's clock is, "5m" or "-5m". Other builds have no such variable.
var clockFrom string //nolint:gochecknoglobals // the linker's only door

// clock returns the clock by which certificates are made and judged.
func clock() (func() time.Time, error) {
	text := ""
	if clockFrom != "" {
		text = os.Getenv(clockFrom)
	}
	if text == "" {
		return time.Now, nil
	}
	offset, err := time.ParseDuration(text)
	if err != nil {
		return nil, &invalid{fmt.Errorf("%s: %w", clockFrom, err)}
	}
	return func() time.Time { return time.Now().Add(offset) }, nil
}
