package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
	"github.com/wattle-mesh/wattle/internal/store"
)

// A node may report reportBurst times at once, over all its streams, and reportRate times a second from then on; more
// has to wait.
const (
	reportRate  = 50
	reportBurst = 100
)

// Report implements apipb.NodeServer. It answers every report, and again when what is refused of the last one
// changes with the policy or the grant.
func (n *Node) Report(stream grpc.BidiStreamingServer[apipb.ReportRequest, apipb.ReportResponse]) error {
	who, ok := PeerFrom(stream.Context())
	if !ok || who.Node == "" {
		return status.Error(codes.Unauthenticated, "no certificate of a node")
	}
	number, superseded := n.o.Registrar.open(who.Node)
	defer n.o.Registrar.close(who.Node, number)
	reports, ended := receive(stream, n.reports.of(who.Node))
	var told []refusal
	var revision, answers uint64
	var changed <-chan struct{} // nil before the first report
	leaving := &leaving{node: who.Node, callers: n.o.Callers}
	for {
		moved, again := leaving.wait()
		select {
		case req := <-reports:
			s, err := parseReport(who, req)
			if err != nil {
				return status.Error(codes.InvalidArgument, err.Error())
			}
			if _, err := n.o.Registrar.report(who.Node, number, s); err != nil {
				return status.Error(codes.Aborted, err.Error())
			}
			revision, answers = req.GetRevision(), req.GetNumber()
			leaving.take(req.GetHealth())
		case <-moved:
			if !leaving.look() {
				continue
			}
		case <-again:
			if !leaving.look() {
				continue
			}
		case <-changed:
			if now, _ := n.o.Registrar.refusals(who.Node); slices.Equal(now, told) {
				_, changed = n.o.Registrar.refusals(who.Node)
				continue
			}
		case <-superseded:
			return status.Error(codes.Aborted, errSuperseded.Error())
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		told, changed = n.o.Registrar.refusals(who.Node)
		leaving.look()
		resp := response(told, revision, leaving.left)
		resp.Number, resp.Time = answers, timestamppb.New(n.o.CA.Now())
		if err := stream.Send(resp); err != nil {
			return err
		}
		answers = 0
	}
}

// receive reads the stream from a goroutine that ends with it.
func receive(stream grpc.BidiStreamingServer[apipb.ReportRequest, apipb.ReportResponse], limit *rate.Limiter) (<-chan *apipb.ReportRequest, <-chan error) {
	reports, ended := make(chan *apipb.ReportRequest), make(chan error, 1)
	ctx := stream.Context()
	next := func() error {
		if err := limit.Wait(ctx); err != nil {
			return context.Cause(ctx)
		}
		req, err := stream.Recv()
		if err != nil {
			return err
		}
		select {
		case reports <- req:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	go func() {
		for {
			if err := next(); err != nil {
				ended <- err
				return
			}
		}
	}()
	return reports, ended
}

func response(refused []refusal, revision uint64, left []*apipb.Left) *apipb.ReportResponse {
	out := &apipb.ReportResponse{Revision: revision, Left: left}
	for _, r := range refused {
		out.Refused = append(out.Refused, &apipb.Refusal{Namespace: r.namespace, Service: r.service, Instance: r.instance, Origin: r.origin, Reason: r.reason})
	}
	return out
}

// parseReport reads a report. What is wrong with one registration is a refusal; an error is a report that as a
// whole is not to be used.
func parseReport(who *Peer, req *apipb.ReportRequest) (said, error) {
	out := said{peer: who.Address, unknown: req.GetUnknown()}
	if a := req.GetAddress(); a != "" {
		claimed, err := netip.ParseAddr(a)
		if err != nil || !machine(claimed.Unmap()) {
			return said{}, fmt.Errorf("%q is not the address of a machine", clip(a, 64))
		}
		out.claimed = claimed.Unmap()
	}
	if req.GetMeshPort() > math.MaxUint16+1-configs.MeshPorts {
		return said{}, fmt.Errorf("mesh port %d: a host has %d ports from there on", req.GetMeshPort(), configs.MeshPorts)
	}
	out.meshPort = uint16(req.GetMeshPort())
	if len(req.GetRegistrations()) > maxRegistrations {
		return said{}, fmt.Errorf("%d registrations, at most %d are taken", len(req.GetRegistrations()), maxRegistrations)
	}
	for _, r := range req.GetRegistrations() {
		s, err := parseRegistration(who.Node, r)
		var kept store.Registration
		if err == nil {
			kept, err = stored(s)
		}
		if err != nil {
			out.malformed = append(out.malformed, refusal{clip(r.GetNamespace(), 64), clip(r.GetService(), 64), clip(r.GetInstance(), 128), origin(who.Node, r.GetOrigin()), err.Error()})
			continue
		}
		out.registrations = append(out.registrations, registration{Service: s, kept: kept})
	}
	out.dedupe()
	var err error
	if out.problems, err = parseProblems(who.Node, req.GetProblems()); err != nil {
		return said{}, err
	}
	if out.health, err = parseHealth(req.GetHealth()); err != nil {
		return said{}, err
	}
	out.ahead, out.alarms = time.Duration(req.GetClockAhead())*time.Second, parseAlarms(who.Node, req.GetAlarms())
	out.facts, err = parseFacts(req.GetFacts())
	out.labels = factLabels(out.facts)
	return out, err
}

// dedupe sorts the registrations. Of two for the same workload the first counts.
func (s *said) dedupe() {
	slices.SortStableFunc(s.registrations, registration.compare)
	s.registrations = slices.CompactFunc(s.registrations, func(a, b registration) bool {
		if a.compare(b) != 0 {
			return false
		}
		s.malformed = append(s.malformed, refusal{b.Namespace, b.Name, b.Instance, b.Origin, fmt.Sprintf("it is registered twice; the first one, %s, counts", a.Origin)})
		return true
	})
}

// compareHealth orders by workload.
func compareHealth(a, b store.Health) int {
	return strings.Compare(a.Namespace+"/"+a.Service+"/"+a.Instance, b.Namespace+"/"+b.Service+"/"+b.Instance)
}
