package main

import "context"

const (
	agentUnit  = "wattle-agent.service"
	serverUnit = "wattle-server.service"
	envoyUnit  = "wattle-envoy@host.service"
)

// fault is one way to break the mesh. When it ends, the mesh is whole again.
type fault struct {
	name string
	run  func(context.Context, *world) error
}

// faults are all, in their order. Those while the server is away concern hosts only, and would be the same with a server: so
// it is away for ten minutes, and the lab needs no ten minutes more for that.
var faults = []fault{
	{"packages", packages},
	{"units", units},
	{"server killed", serverKilled},
	{"DNS down", dnsDown},
	{"packet loss", packetLoss},
	{"disk full on a host", hostDiskFull},
	{"disk full on the server", serverDiskFull},
	{"clocks wrong", clocksWrong},
	{"agents dead, first calls", firstCalls},
	{"capture", captured},
	{"rights and resources", rights},
	{"policy that crashes Envoy", policyCrashes},
	{"policy that hangs Envoy", policyHangs},
	{"Envoy of many clusters killed", bigEnvoyKilled},
	{"host drained", hostDrained},
	{"application stopped and started", appSteered},
	{"application fails", appFails},
	{"host leaves", hostLeaves},
	{"server away", serverAway},
	{"no server: agents killed", agentsKilled},
	{"no server: agents stopped", agentsStopped},
	{"no server: Envoys restarted", envoysRestarted},
	{"no server: hosts rebooted", rebooted},
	{"no server: Envoy killed", envoyKilled},
	{"no server: Envoys reloaded", envoysReloaded},
	{"no server: Envoys upgraded", envoysReplaced},
	{"no server: wattle proxy upgrade", proxyUpgrade},
	{"no server: another hot restart version", otherVersion},
	{"no server: reload that cannot succeed", reloadFails},
	{"server back", serverBack},
	{"power cuts", powerCuts},
	{"certificates run out", leavesExpire},
	{"package installed again", upgraded},
	{"purged", purged},
}
