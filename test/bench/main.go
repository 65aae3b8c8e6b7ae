// Command bench measures the speed and memory of the server against the targets that the project has set itself,
// prints a table and writes .bench/results.json. The server, the bare broadcaster that it is compared with and the
// clients of both are processes of their own: the program starts itself again in other roles.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	role := flag.String("role", "", "internal: what this process is")
	dir := flag.String("dir", "", "internal: the folder of certificates and state")
	short := flag.Bool("short", false, "measure every row, but each for a short time only")
	only := flag.String("only", "", "measure one group only: fanout, server, route, merge, hosts, registries or consul")
	wattle := flag.String("wattle", "bin/wattle", "the program whose server is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *role, *dir, *wattle, *short, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, role, dir, wattle string, short bool, only string) error {
	switch role {
	case "":
		return measure(ctx, wattle, short, only)
	case "server":
		return answer(ctx, newServer(dir))
	case "broadcaster":
		return answer(ctx, newBroadcaster(dir))
	case "clients":
		return answer(ctx, newClients(dir))
	case "route":
		return answer(ctx, newRoute(dir))
	case "merge":
		return answer(ctx, &mergeRole{})
	}
	return fmt.Errorf("no role %q", role)
}
