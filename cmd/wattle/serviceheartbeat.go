package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/internal/api"
)

func newServiceHeartbeat() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "heartbeat NAME [-every 10s]",
		Short: "Say that a workload with a ttl lives",
		Long: `Heartbeat says once that the workload NAME, which is registered with a ttl, lives; with -every again and again, until it is
ended. With -every, an agent that does not answer is no end: it is tried again.`,
		Args: args(cobra.ExactArgs(1)),
	}
	place, flags := newPlaceFlags(cmd), newRefFlags(cmd)
	place.writer = newWriterFlags(cmd)
	addressFlag(cmd, &flags.address)
	every := cmd.Flags().Duration("every", 0, "how often, 100ms or more; 0s: once")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		if *every != 0 && *every < 100*time.Millisecond {
			return &invalid{fmt.Errorf("-every %s: it is at least 100ms", *every)}
		}
		refs, err := flags.refs(a)
		if err != nil {
			return err
		}
		to, err := place.desk(flags.address != "")
		if err != nil {
			return err
		}
		defer to.Close()
		if *every == 0 {
			_, err := to.Heartbeat(cmd.Context(), refs[0])
			return faulty(err)
		}
		return beatOn(cmd.Context(), cmd.ErrOrStderr(), to, refs[0], *every)
	}
	return cmd
}

// beatOn sends heartbeats until ctx is done. What is wrong is said when it changes.
func beatOn(ctx context.Context, stderr io.Writer, to desk, ref api.ServiceRef, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	said := ""
	for {
		_, err := to.Heartbeat(ctx, ref)
		if ctx.Err() != nil {
			return nil
		}
		now := ""
		if err != nil {
			now = err.Error()
		}
		switch {
		case now == said:
		case now == "":
			fmt.Fprintf(stderr, "wattle: heartbeats of %s are heard again\n", ref)
		default:
			fmt.Fprintf(stderr, "wattle: no heartbeat of %s: %s\n", ref, now)
		}
		said = now
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
