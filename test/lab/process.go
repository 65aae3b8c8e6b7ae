package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// mainPID returns the main process of a unit.
func (h *host) mainPID(ctx context.Context, unit string) (int, error) {
	text, err := h.property(ctx, unit, "MainPID")
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(text))
	if err == nil && pid == 0 {
		err = fmt.Errorf("%s: %s has no main process", h.name, unit)
	}
	return pid, err
}

// starting returns how long a unit took from its start until it was ready, by systemd's clock.
func (h *host) starting(ctx context.Context, unit string) (time.Duration, error) {
	var at [2]int64
	for i, name := range []string{"InactiveExitTimestampMonotonic", "ActiveEnterTimestampMonotonic"} {
		text, err := h.property(ctx, unit, name)
		if err != nil {
			return 0, err
		}
		if at[i], err = strconv.ParseInt(text, 10, 64); err != nil {
			return 0, err
		}
	}
	return time.Duration(at[1]-at[0]) * time.Microsecond, nil
}

// kill9 kills the main process of a unit and returns how long it takes until the unit is active again.
func (h *host) kill9(ctx context.Context, unit string) (time.Duration, error) {
	old, err := h.mainPID(ctx, unit)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := h.run(ctx, "kill", "-9", strconv.Itoa(old)); err != nil {
		return 0, err
	}
	err = until(ctx, settle, unit+" is back", func() error {
		pid, err := h.mainPID(ctx, unit)
		if err == nil && pid == old {
			err = errors.New("the old process is there yet")
		}
		if err == nil {
			_, err = h.run(ctx, "systemctl", "is-active", unit)
		}
		return err
	})
	return time.Since(began), err
}
