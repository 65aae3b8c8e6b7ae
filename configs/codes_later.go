package configs

import "slices"

// laterCodes are the codes of the stages after this package, which make their diagnostics with NewDiagnostic:
// W2xxx internal/mesh, W3xxx translator, W4xxx registry.
var laterCodes = slices.Concat(
	meshCodes,
)
