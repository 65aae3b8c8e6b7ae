package main

import (
	"context"
	"errors"
	"fmt"
)

// hostDiskFull fills the caller's disk. Its agent goes on from memory, and can be started again.
func hostDiskFull(ctx context.Context, w *world) error {
	err := w.unharmed(ctx, "disk of a host full, its policy changed, its agent restarted", func() error {
		free, err := w.caller.fill()
		if err != nil {
			return err
		}
		err = w.change(ctx)
		if err == nil {
			w.alarm(ctx, "disk of a host full", "ALARM disk.*"+w.caller.name)
			_, err = w.caller.run(ctx, "systemctl", "restart", agentUnit)
		}
		if err == nil {
			err = w.change(ctx)
		}
		return errors.Join(err, free())
	})
	if err != nil {
		return err
	}
	// What could not be kept is kept now: with no server it is what an agent begins with.
	return w.change(ctx)
}

// serverDiskFull fills the server's disk. What is in force stays; what cannot be kept may be refused, but is said.
func serverDiskFull(ctx context.Context, w *world) error {
	w.changes++
	if err := w.server.prepare(ctx, w.changes); err != nil {
		return err
	}
	err := w.unharmed(ctx, "disk of the server full, policy changed, server restarted", func() error {
		free, err := w.server.fill()
		if err != nil {
			return err
		}
		err = w.server.publish(ctx)
		if err == nil {
			w.alarm(ctx, "disk of the server full", "W4312")
			_, err = w.server.run(ctx, "systemctl", "restart", serverUnit)
		}
		if err == nil {
			err = w.answered(ctx)
		}
		return errors.Join(err, free())
	})
	if err != nil {
		return err
	}
	if err := w.change(ctx); err != nil {
		return fmt.Errorf("after there is room again: %w", err)
	}
	return nil
}
