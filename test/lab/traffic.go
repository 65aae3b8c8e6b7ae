package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/wattle-mesh/wattle/test/load"
)

const rate = 500 // requests a second, of all kinds together

// window is the part of the load that is asked about: requests due between the two.
type window struct{ From, To time.Time }

// outcome is what became of the requests of a window.
type outcome struct {
	Sent, Failed, Retried int
	P99                   time.Duration
	Failures              []string // some of them, as text
	Times                 []time.Time
}

// send is the program's role within the caller's network: it sends the standard load until its standard input ends, and
// answers each window that comes there with its outcome.
func send(ctx context.Context, targets []load.Target) error {
	l, err := load.Start(ctx, load.Options{Targets: targets, Rate: rate})
	if err != nil {
		return err
	}
	defer l.Stop()
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var w window
		if err := in.Decode(&w); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		// Requests that are due have ended when as many as can be in flight have ended after them.
		if err := l.For(ctx, time.Second); err != nil {
			return err
		}
		part := l.Report().Window(w.From, w.To)
		all := part.All()
		o := outcome{Sent: all.Sent, Failed: all.Failed, Retried: all.Retried, P99: all.P99}
		for _, r := range part.Failed().Results {
			o.Times = append(o.Times, r.Due)
			if len(o.Failures) < 5 {
				o.Failures = append(o.Failures, fmt.Sprintf("%s %s after %s: %v", r.Due.Format("15:04:05.000"), r.Kind, r.Took.Round(time.Microsecond), r.Err))
			}
		}
		if err := out.Encode(o); err != nil {
			return err
		}
	}
}

// traffic is the load from one host.
type traffic struct {
	cmd *exec.Cmd
	in  *json.Encoder
	end io.Closer
	out *json.Decoder
}

// startTraffic has this program send the load from within the network of a host, so that it outlives what is done to it.
func startTraffic(ctx context.Context, h *host, targets []load.Target) (*traffic, error) {
	cmd, err := h.self(ctx, "load", targets)
	if err != nil {
		return nil, err
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &traffic{cmd, json.NewEncoder(in), in, json.NewDecoder(bufio.NewReader(out))}, nil
}

// between returns what became of the requests that were due between two moments.
func (t *traffic) between(from, to time.Time) (o outcome, err error) {
	if err := t.in.Encode(window{from, to}); err != nil {
		return o, err
	}
	return o, t.out.Decode(&o)
}

func (t *traffic) stop() error {
	return errors.Join(t.end.Close(), t.cmd.Wait())
}
