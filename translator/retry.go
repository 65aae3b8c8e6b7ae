package translator

import (
	"strconv"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	hostsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"

	"github.com/wattle-mesh/wattle/configs"
)

const (
	defaultAttempts = 2
	// hostAttempts is how often an endpoint that was not tried yet is looked for. Endpoints are picked at random, and
	// least_request likes the one that answers nobody: of two, it picks the dead one up to three times in four.
	hostAttempts = 32
	retryBase    = 25 * time.Millisecond
	retryMax     = 250 * time.Millisecond
)

// unseen are the conditions under which the application cannot have seen the request, so that it is safe to try it
// elsewhere whatever the method: no connection, a refused or reset stream before anything was sent, or the callee's
// proxy saying so by the unprocessed header.
func unseen() []string {
	return []string{"connect-failure", "refused-stream", "reset-before-request", "retriable-headers"}
}

// retryPolicy translates retries. A policy adds conditions; what nobody has seen is always tried again. The routes of
// one resource that say nothing of retries share the message.
func (p *packer) retryPolicy(r *configs.Retries) *routev3.RetryPolicy {
	if r == nil && p.retries != nil {
		return p.retries
	}
	m := &routev3.RetryPolicy{
		NumRetries:                    wrapperspb.UInt32(defaultAttempts),
		HostSelectionRetryMaxAttempts: hostAttempts,
		RetryHostPredicate: []*routev3.RetryPolicy_RetryHostPredicate{{
			Name:       "envoy.retry_host_predicates.previous_hosts",
			ConfigType: &routev3.RetryPolicy_RetryHostPredicate_TypedConfig{TypedConfig: p.any(&hostsv3.PreviousHostsPredicate{})},
		}},
		RetriableHeaders: []*routev3.HeaderMatcher{{
			Name:                 unprocessed,
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exactly(isUnprocessed)},
		}},
		RetryBackOff: &routev3.RetryPolicy_RetryBackOff{
			BaseInterval: durationpb.New(retryBase), MaxInterval: durationpb.New(retryMax),
		},
	}
	on := unseen()
	switch {
	case r == nil:
		on = append(on, "unavailable")
	case r.Attempts > 0:
		m.NumRetries = wrapperspb.UInt32(r.Attempts)
		m.PerTryTimeout = duration(r.PerTryTimeout)
		for _, c := range conditions(r) {
			if code, err := strconv.ParseUint(c, 10, 16); err == nil {
				m.RetriableStatusCodes = append(m.RetriableStatusCodes, uint32(code))
			} else {
				on = append(on, c)
			}
		}
		if len(m.RetriableStatusCodes) > 0 {
			on = append(on, "retriable-status-codes")
		}
	}
	m.RetryOn = strings.Join(unique(on), ",")
	if r == nil {
		p.retries = m
	}
	return m
}

func conditions(r *configs.Retries) []string {
	if len(r.RetryOn) == 0 {
		return []string{"unavailable"}
	}
	return r.RetryOn
}

// unique drops repeats and keeps the order.
func unique(all []string) []string {
	seen := map[string]bool{}
	out := all[:0]
	for _, s := range all {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}
