// Command app runs the application of the standard load: see package echo for what it answers.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/wattle-mesh/wattle/test/load/echo"
)

func main() {
	var o echo.Options
	flag.StringVar(&o.Name, "name", "echo", "the service to answer as")
	flag.StringVar(&o.Version, "version", "", "the version to answer as")
	flag.StringVar(&o.Host, "host", "", "the host to answer as")
	flag.StringVar(&o.Instance, "instance", "", "the instance to answer as")
	flag.Func("http", "where to serve HTTP/1, HTTP/2 and gRPC: `address`, or unix:PATH; may be given again", func(addr string) error {
		o.HTTP = append(o.HTTP, addr)
		return nil
	})
	flag.StringVar(&o.TCP, "tcp", "", "where to answer lines: `address`, or unix:PATH")
	flag.StringVar(&o.Receipts, "receipts", "", "`file` to which the id of each request is appended before it is answered")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := serve(ctx, o)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

func serve(ctx context.Context, o echo.Options) error {
	s, err := echo.Listen(ctx, o)
	if err != nil {
		return err
	}
	return s.Run(ctx)
}
