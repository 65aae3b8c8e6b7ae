package agent

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api"
)

// What bounds the body of a request, for one service and for several.
const (
	maxRequest  = 64 << 10 // bytes
	maxRequests = 1 << 20
)

// handler is the HTTP API of the agent's socket: the paths of the server's for services. Everybody on the host may read;
// the desk says who may write.
func (d *desk) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/services", func(w http.ResponseWriter, r *http.Request) {
		api.Respond(d.log, w, r, api.Services{Services: d.list()}, nil)
	})
	if d.host != nil {
		mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
			api.Respond(d.log, w, r, d.host.status(), nil)
		})
		mux.HandleFunc("POST /v1/reach", d.paced(func(who client, r *http.Request) (any, error) {
			if !d.trusted(who.uid) {
				return nil, deny(http.StatusForbidden, api.CodeUser, "use sudo", "only root and the agent's user may have the server connect here")
			}
			return d.host.reach(r.Context())
		}))
		mux.Handle("GET /metrics", d.host.metrics())
		mux.HandleFunc("POST /v1/leave", d.paced(d.leave))
	}
	one := "/v1/services/{namespace}/{name}/{instance}"
	mux.HandleFunc("GET "+one, d.on(func(_ client, key workload, _ *http.Request) (any, error) {
		d.mu.Lock()
		defer d.mu.Unlock()
		if e := d.find(key); e != nil {
			return d.status(e), nil
		}
		return nil, unknown(key)
	}))
	mux.HandleFunc("PUT "+one, d.write(d.put))
	mux.HandleFunc("PUT /v1/services", d.paced(d.putAll))
	mux.HandleFunc("DELETE "+one, d.write(func(who client, key workload, r *http.Request) (any, error) {
		return d.deregister(who, key, r.URL.Query().Get("run"))
	}))
	mux.HandleFunc("PUT "+one+"/heartbeat", d.write(func(who client, key workload, r *http.Request) (any, error) {
		return d.heartbeat(r.Context(), who, key)
	}))
	mux.HandleFunc("PUT "+one+"/drain", d.write(d.drain))
	mux.HandleFunc("DELETE "+one+"/drain", d.write(d.drain))
	mux.HandleFunc("PUT /v1/units/{unit}/drain", d.paced(d.drainUnit))
	mux.HandleFunc("DELETE /v1/units/{unit}/drain", d.paced(d.drainUnit))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		api.Respond(d.log, w, r, nil, &api.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("an agent answers no %.10q of this path", r.Method), Remedy: "docs/http-api.md lists what there is"})
	})
	return mux
}

// asked finds out who asks.
func (d *desk) asked(do func(client, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var v any
		err := deny(http.StatusForbidden, api.CodeUser, "", "it is not known who you are")
		if who, ok := r.Context().Value(clientKey{}).(client); ok {
			v, err = do(who, r)
		}
		api.Respond(d.log, w, r, v, err)
	}
}

// on finds out who asks, and about what.
func (d *desk) on(do func(client, workload, *http.Request) (any, error)) http.HandlerFunc {
	return d.asked(about(do))
}

// about finds out which workload is meant.
func about(do func(client, workload, *http.Request) (any, error)) func(client, *http.Request) (any, error) {
	return func(who client, r *http.Request) (any, error) {
		ref, err := api.RefOf(r)
		if err != nil {
			return nil, err
		}
		return do(who, workload{ref.Namespace, ref.Name, ref.Instance}, r)
	}
}

// paced is asked for what changes something.
func (d *desk) paced(do func(client, *http.Request) (any, error)) http.HandlerFunc {
	return d.asked(func(who client, r *http.Request) (any, error) {
		if !d.paces.allow(who.uid) {
			return nil, deny(http.StatusTooManyRequests, api.CodeTooMany, "slow down", "uid %d writes more than %d times a second", who.uid, writeRate)
		}
		return do(who, r)
	})
}

// write is on for what changes something.
func (d *desk) write(do func(client, workload, *http.Request) (any, error)) http.HandlerFunc {
	return d.paced(about(do))
}

// put registers, and waits for the server's word if it is asked to.
func (d *desk) put(who client, key workload, r *http.Request) (any, error) {
	r.Body = http.MaxBytesReader(nil, r.Body, maxRequest)
	req, err := api.ParseServiceRequest(api.ServiceRef{Namespace: key.namespace, Name: key.service, Instance: key.instance}, r)
	if err != nil {
		return nil, err
	}
	out, err := d.enroll(r.Context(), who, []*configs.Service{req.Service}, req.Run)
	if err != nil {
		return nil, err
	}
	d.awaitAll(r.Context(), out, time.Duration(req.Wait))
	return out[0], nil
}

// putAll is put for several at once.
func (d *desk) putAll(who client, r *http.Request) (any, error) {
	r.Body = http.MaxBytesReader(nil, r.Body, maxRequests)
	req, err := api.ParseServicesRequest(r)
	if err != nil {
		return nil, err
	}
	out, err := d.enroll(r.Context(), who, req.Services, req.Run)
	if err != nil {
		return nil, err
	}
	d.awaitAll(r.Context(), out, time.Duration(req.Wait))
	return api.ServicesAnswer{Services: out}, nil
}

// awaitAll waits until the server has spoken of registrations, at most so long in all, and has the answers say how they are.
func (d *desk) awaitAll(ctx context.Context, all []api.ServiceAnswer, limit time.Duration) {
	until := time.Now().Add(limit)
	for i, a := range all {
		if left := time.Until(until); left > 0 {
			all[i].ServiceStatus = d.await(ctx, workload{a.Namespace, a.Name, a.Instance}, a.ServiceStatus, left)
		}
	}
}
