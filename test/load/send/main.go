// Command send sends the standard load at whatever serves as package echo does, and prints what became of it:
//
//	go run ./test/load/send -duration 30s -get 127.0.0.1:9081 -post 127.0.0.1:9081 -tcp 127.0.0.1:9082
//
// It exits with 1 if a request failed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/wattle-mesh/wattle/test/load"
)

func main() {
	var o load.Options
	duration := flag.Duration("duration", 30*time.Second, "how long to send")
	flag.Float64Var(&o.Rate, "rate", load.DefaultRate, "requests per second, of all kinds together")
	flag.DurationVar(&o.Timeout, "timeout", load.DefaultTimeout, "of one request")
	for _, k := range []load.Kind{load.Get, load.Post, load.H2, load.GRPC, load.Stream, load.TCP} {
		flag.Func(string(k), "`address` (host:port or unix:PATH) for requests of this kind; may be given again", func(addr string) error {
			o.Targets = append(o.Targets, load.Target{Kind: k, Addr: addr})
			return nil
		})
	}
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	report, err := send(ctx, o, *duration)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Print(report)
	if report.All().Failed > 0 {
		os.Exit(1)
	}
}

// send runs a load for so long, or until ctx is done.
func send(ctx context.Context, o load.Options, d time.Duration) (*load.Report, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	l, err := load.Start(ctx, o)
	if err != nil {
		return nil, err
	}
	<-ctx.Done()
	return l.Stop(), nil
}
