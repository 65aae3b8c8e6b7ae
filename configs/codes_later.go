package configs

// laterCodes are the codes of the stages after this package, which make their diagnostics with NewDiagnostic:
// W2xxx internal/mesh, W3xxx translator, W4xxx registry.
var laterCodes = []Code{
	{"W2001", "unknown service", "No registry knows the service, and no host or service block declares it. A route to it answers 503."},
}
