package configs

import "slices"

// laterCodes are the codes of the stages after this package, which make their diagnostics with NewDiagnostic:
// W2xxx internal/mesh, W3xxx internal/pipeline, W4xxx registry, W5xxx internal/agent.
var laterCodes = slices.Concat(
	meshCodes,
	[]Code{
		{"W3001", "the policy cannot be translated for Envoy",
			"What was made of the policy is no valid Envoy configuration, so it was not published. This is a fault of Wattle.",
			"Report it with the message. The policy that was in force stays."},
		{"W3002", "another trust domain than the CA's",
			"The server's CA was made for one trust domain, and every identity begins with it, so it cannot change.",
			"Write the CA's trust domain in the mesh block, or start a new server with an empty state_dir."},
		{"W5001", "no workload of this host",
			"A file of an agent's services_dir has a host block, or a service with endpoint blocks. An agent registers the workloads of its own host and nothing else; the block is ignored. A warning.",
			"Write the block into the policy folder, or into the folder of a static registry."},
	},
	serviceCodes,
	[]Code{},
)
