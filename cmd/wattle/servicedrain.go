package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

// drainPause is how long to wait until an agent is asked again that does not answer: it may be starting anew.
const drainPause = 200 * time.Millisecond

func newServiceDrain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain NAME | -unit UNIT [-wait] [-undo]",
		Short: "Keep new requests away from a workload of this host",
		Long: `Drain has callers leave the workload NAME, NAMESPACE/NAME or NAMESPACE/NAME/INSTANCE of this host, until -undo: no
new request reaches it, and those under way end. It lasts across restarts of the agent and the host. With -unit it drains the
workloads of that systemd unit for as long as the unit's present run lasts; wattle-workload@.service does that before the unit stops.

With -wait it returns when every caller's proxy has acknowledged and nothing is under way any more, or fails after -limit. If no
server answers, callers cannot be told: this host's proxy then turns their requests away, and theirs try another instance.`,
		Args: args(cobra.MaximumNArgs(1)),
	}
	place, flags := newSocketFlag(cmd), newRefFlags(cmd)
	unit := cmd.Flags().String("unit", "", "the workloads of this systemd `UNIT`, instead of NAME")
	wait := cmd.Flags().Bool("wait", false, "wait until nothing is under way")
	limit := cmd.Flags().Duration("limit", 20*time.Second, "how long to wait at most")
	undo := cmd.Flags().Bool("undo", false, "take it back")
	reason := cmd.Flags().String("reason", "", "why, a `TEXT` that wattle service describe and catalog describe show")
	asJSON := cmd.Flags().Bool("json", false, "print JSON, the agent's answer")
	cmd.RunE = func(cmd *cobra.Command, a []string) error {
		if (len(a) == 1) == (*unit != "") {
			return &invalid{errors.New("say what to drain: NAME, or -unit UNIT")}
		}
		if *undo && *wait {
			return &invalid{errors.New("-undo waits for nothing; leave -wait out")}
		}
		d := drainer{at: place(), unit: *unit, reason: *reason, stderr: cmd.ErrOrStderr()}
		defer d.at.Close()
		if len(a) == 1 {
			var err error
			if d.ref, err = flags.ref(a[0]); err != nil {
				return err
			}
		}
		var got api.DrainAnswer
		var err error
		switch {
		case *undo:
			ctx, cancel := context.WithTimeout(cmd.Context(), *limit)
			defer cancel()
			got, err = d.undo(ctx)
		case *wait:
			got, err = d.wait(cmd.Context(), *limit)
		default:
			got, err = d.once(cmd.Context(), 0)
		}
		if err != nil {
			return faulty(err)
		}
		if *asJSON {
			err = printJSON(cmd.OutOrStdout(), got)
		} else if !*undo {
			err = writeDrain(cmd.OutOrStdout(), got)
		}
		if err == nil && *wait && !got.Done() {
			err = fmt.Errorf("not drained within %s", *limit)
		}
		return err
	}
	return cmd
}

// newSocketFlag says where the agent is, and returns how to reach it.
func newSocketFlag(cmd *cobra.Command) func() *api.Client {
	p := &placeFlags{}
	cmd.Flags().StringVar(&p.socket, "socket", "", "the agent's unix socket, a `PATH` (default $"+socketEnv+" or /run/wattle/agent.sock)")
	return func() *api.Client { return p.client(false) }
}

// drainer asks an agent.
type drainer struct {
	at     *api.Client
	unit   string // else ref
	ref    api.ServiceRef
	reason string
	stderr io.Writer
}

func (d drainer) once(ctx context.Context, wait time.Duration) (api.DrainAnswer, error) {
	req := api.DrainWorkload{Reason: d.reason, Wait: configs.Duration(wait)}
	if d.unit != "" {
		return d.at.DrainUnit(ctx, d.unit, req)
	}
	return d.at.DrainService(ctx, d.ref, req)
}

func (d drainer) undo(ctx context.Context) (api.DrainAnswer, error) {
	if d.unit != "" {
		return d.at.UndrainUnit(ctx, d.unit)
	}
	return d.at.UndrainService(ctx, d.ref)
}

// wait drains until it is done, at most so long. An agent that does not answer is asked again.
func (d drainer) wait(ctx context.Context, limit time.Duration) (got api.DrainAnswer, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	end, said := time.Now().Add(limit), false
	for {
		left := time.Until(end)
		now, err := d.once(ctx, min(max(left-drainPause, 0), api.MaxWait))
		if _, refused := errors.AsType[*api.Error](err); refused {
			return got, err
		}
		if err == nil {
			got = now
			if got.Done() {
				return got, nil
			}
		} else if ctx.Err() == nil && !said {
			fmt.Fprintf(d.stderr, "wattle: %v; it is asked again\n", err)
			said = true
		}
		select {
		case <-time.After(drainPause):
		case <-ctx.Done():
			return got, err
		}
	}
}

// writeDrain says how far workloads are.
func writeDrain(w io.Writer, got api.DrainAnswer) error {
	if got.Note != "" {
		_, err := fmt.Fprintf(w, "nothing to drain: %s\n", got.Note)
		return err
	}
	for _, s := range got.Workloads {
		if _, err := fmt.Fprintf(w, "%s: %s\n", s.ServiceRef, drainState(s)); err != nil {
			return err
		}
	}
	return nil
}

// drainState says how far a workload is.
func drainState(s api.DrainStatus) string {
	text := s.State
	if s.Busy > 0 {
		text += fmt.Sprintf(", %d requests and connections under way", s.Busy)
	}
	if s.Detail != "" {
		text += " (" + s.Detail + ")"
	}
	return text
}
