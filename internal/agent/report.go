package agent

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/mesh/planpb"
)

// firstReport is how long an agent that has just connected for the first time waits for its plan before it reports:
// a host that has none yet gets it by reporting.
const firstReport = time.Second

// reporter tells the server what runs on this host and how it is.
type reporter struct {
	log      *slog.Logger
	address  string // as the configuration claims it
	client   apipb.NodeClient
	plan     *value[*planpb.HostPlan]
	services *value[*registrations]
	health   *value[map[workload]health]
	certs    *value[holdings]

	begun   bool // something was reported
	refused []*apipb.Refusal
}

// run keeps the report stream open, with back-off, until ctx is done.
func (r *reporter) run(ctx context.Context) error {
	pause := newPause()
	for {
		began := time.Now()
		err := r.stream(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > maxRetry {
			pause.Reset()
		}
		wait := pause.NextBackOff()
		r.log.Warn("the report stream ended", "error", err, "again_in", wait.Round(time.Millisecond))
		if !sleep(ctx, wait) {
			return nil
		}
	}
}

// stream reports everything once, and again whenever it has changed, until the stream ends.
func (r *reporter) stream(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := r.client.Report(ctx, grpc.WaitForReady(true))
	if err != nil {
		cancel()
		return err
	}
	answers, ended := make(chan *apipb.ReportResponse), make(chan error, 1)
	go func() {
		for {
			resp, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case answers <- resp:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	defer func() { cancel(); <-ended }()
	var sent *apipb.ReportRequest
	patience, waited := time.After(firstReport), false
	for {
		plan, planned := r.plan.Load()
		local, registered := r.services.Load()
		checked, healthChanged := r.health.Load()
		held, certified := r.certs.Load()
		if r.complete(plan, local, checked, waited) {
			if now := r.report(plan, local, checked, held); !proto.Equal(now, sent) {
				if stream.Send(now) != nil {
					err := <-ended // only Recv knows why
					ended <- err
					return err
				}
				sent, r.begun = now, true
			}
		}
		select {
		case <-planned:
		case <-registered:
		case <-healthChanged:
		case <-certified:
		case <-patience:
			waited = true
		case resp := <-answers:
			r.answer(resp)
		case err := <-ended:
			ended <- err
			return err
		}
	}
}

// complete reports whether there is enough to tell. A report is the whole truth: an agent that has just started
// must not take back what the one before it said, so it waits until it knows its services and the first result
// of every check, which takes no longer than their timeouts.
func (r *reporter) complete(plan *planpb.HostPlan, local *registrations, checked map[workload]health, waited bool) bool {
	if local == nil {
		return false
	}
	if r.begun {
		return true
	}
	if plan == nil {
		return waited
	}
	for _, w := range plan.GetWorkloads() {
		if len(probes(w)) > 0 && !checked[workloadOf(w)].known {
			return false
		}
	}
	return true
}

// report makes the whole report. A workload is in it when its checks are known, or when it cannot be reached for
// want of a certificate.
func (r *reporter) report(plan *planpb.HostPlan, local *registrations, checked map[workload]health, held holdings) *apipb.ReportRequest {
	out := &apipb.ReportRequest{Address: r.address, Registrations: local.list}
	for _, w := range plan.GetWorkloads() {
		key := workloadOf(w)
		h := checked[key]
		if waiting := held[w.GetIdentity()].waiting; waiting != "" {
			h = health{known: true, reason: "waiting for certificate: " + waiting}
		}
		if !h.known {
			continue
		}
		out.Health = append(out.Health, &apipb.HealthReport{
			Namespace: key.namespace, Service: key.service, Instance: key.instance,
			Healthy: h.healthy, Reason: h.reason,
		})
	}
	slices.SortFunc(out.Health, func(a, b *apipb.HealthReport) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Instance, b.Instance))
	})
	return out
}

// answer logs what the server refuses, once.
func (r *reporter) answer(resp *apipb.ReportResponse) {
	now := resp.GetRefused()
	for _, x := range now {
		if !slices.ContainsFunc(r.refused, func(o *apipb.Refusal) bool { return proto.Equal(o, x) }) {
			r.log.Error("the server refuses a registration", "service", x.GetNamespace()+"/"+x.GetService(), "instance", x.GetInstance(), "reason", x.GetReason())
		}
	}
	r.refused = now
}
