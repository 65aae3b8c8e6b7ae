package static

import _ "embed"

//go:embed schema.json
var schema string

// Schema returns the JSON Schema of a .json file that the driver reads.
func Schema() string { return schema }
