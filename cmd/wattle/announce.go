package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/wattle-mesh/wattle/internal/pipeline"
	"github.com/wattle-mesh/wattle/internal/systemd"
	"github.com/wattle-mesh/wattle/internal/xds"
)

// sayAgain is how soon a change is said.
const sayAgain = 5 * time.Second

// announce tells systemd how a server is: ready when there is something to serve, then in a line for systemctl status whatever
// changes. On SIGHUP, which is systemctl reload, it has the server's file read again; that also happens whenever it changes.
func announce(ctx context.Context, s *server) {
	tell(s.log, systemd.Status("waiting for the registries' first sets and a valid policy"))
	defer tell(s.log, systemd.Stopping)
	select {
	case <-s.loop.Ready():
	case <-ctx.Done():
		return
	}
	said := serving(s.loop.State(), s.xds.Proxies())
	tell(s.log, systemd.Ready, systemd.Status("%s", said))
	reload := make(chan os.Signal, 1)
	if systemd.IsUnit() { // else it is the end
		signal.Notify(reload, syscall.SIGHUP)
		defer signal.Stop(reload)
	}
	for ticker := time.NewTicker(sayAgain); ; {
		select {
		case <-ticker.C:
		case <-reload:
			tell(s.log, systemd.BeginReload()...)
			s.file.reload()
			s.loop.Nudge()
			said = serving(s.loop.State(), s.xds.Proxies())
			tell(s.log, systemd.Ready, systemd.Status("%s", said))
			s.log.Info("the server's file was read again", "file", s.file.path)
		case <-ctx.Done():
			ticker.Stop()
			return
		}
		if line := serving(s.loop.State(), s.xds.Proxies()); line != said {
			tell(s.log, systemd.Status("%s", line))
			said = line
		}
	}
}

// serving is how a server is that serves.
func serving(st *pipeline.State, proxies []xds.ProxyStatus) string {
	connected, synced := 0, 0
	for _, p := range proxies {
		if p.Connected {
			connected++
		}
		if p.Synced {
			synced++
		}
	}
	line := fmt.Sprintf("serves revision %d to %s, %d in sync", st.Revision, count(connected, "proxy", "proxies"), synced)
	if st.Rejected {
		line += "; the policy folder is REJECTED, see wattle status"
	}
	return line
}
