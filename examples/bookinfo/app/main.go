// Command bookinfo is the demo's application: one small program that plays each of its services, as the
// flags say. productpage shows a book, for which it asks details and reviews; reviews of version v2 and v3
// ask ratings for stars. A browser gets a page, a client that accepts application/json gets who answered,
// with the answers of the services that were asked nested in it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// drainTime is how long requests in flight may take to end after SIGTERM. wattle dev kills after 2 s.
const drainTime = 1500 * time.Millisecond

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "bookinfo:", err)
		os.Exit(1)
	}
}

// run serves one service until ctx is done, then lets requests in flight end.
func run(ctx context.Context, args []string, stderr io.Writer) error {
	a, listen, err := parse(args, stderr)
	if err != nil {
		return err
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	log.Info("serving", "service", a.Service, "version", a.Version, "host", a.Host, "listen", l.Addr().String())
	return serve(ctx, l, a.Handler())
}

// parse reads the flags.
func parse(args []string, stderr io.Writer) (a *app, listen string, err error) {
	hostname, _ := os.Hostname()
	a = &app{Upstreams: map[string]string{}}
	flags := flag.NewFlagSet("bookinfo", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&a.Service, "service", "", "which service to play: productpage, details, reviews or ratings")
	flags.StringVar(&a.Version, "version", "v1", "the version to answer as; reviews v2 and v3 show stars")
	flags.StringVar(&a.Host, "host", hostname, "the host name to answer as")
	flags.DurationVar(&a.Timeout, "timeout", 4*time.Second, "how long a call to another service may take")
	flags.StringVar(&listen, "listen", "127.0.0.1:9080", "the address to listen on")
	flags.Func("upstream", "`name=address` of a service that this one calls (may be given again)", func(s string) error {
		name, addr, ok := strings.Cut(s, "=")
		if !ok || name == "" || addr == "" {
			return errors.New("want name=address")
		}
		a.Upstreams[name] = addr
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return nil, "", err
	}
	if flags.NArg() > 0 {
		return nil, "", fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return a, listen, a.check()
}

// serve answers on l until ctx is done, then refuses new connections and waits for the requests in flight.
func serve(ctx context.Context, l net.Listener, h http.Handler) error {
	srv := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTime)
	defer cancel()
	err := srv.Shutdown(drain)
	<-ended
	if errors.Is(err, context.DeadlineExceeded) {
		return srv.Close()
	}
	return err
}
