package configs

import "slices"

// laterCodes are the codes of the stages after this package, which make their diagnostics with NewDiagnostic:
// W2xxx internal/mesh, W3xxx translator, W4xxx registry.
var laterCodes = slices.Concat(
	meshCodes,
	[]Code{
		{"W3001", "the policy cannot be translated for Envoy",
			"What was made of the policy is no valid Envoy configuration, so it was not published. This is a fault of Wattle.",
			"Report it with the message. The policy that was in force stays."},
		{"W3002", "another trust domain than the CA's",
			"The server's CA was made for one trust domain, and every identity begins with it, so it cannot change.",
			"Write the CA's trust domain in the mesh block, or start a new server with an empty state_dir."},
	},
)
