package translator

import (
	"bytes"
	"encoding/json"
	"fmt"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// Decode returns the message of a resource.
func Decode(r *Resource) (proto.Message, error) {
	var d discoveryv3.Resource
	if err := proto.Unmarshal(r.Wire, &d); err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.Type, r.Name, err)
	}
	m, err := d.GetResource().UnmarshalNew()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", r.Type, r.Name, err)
	}
	return m, nil
}

// Dump writes resources as JSON, by type and name; equal resources give equal bytes.
func Dump(all []*Resource) (json.RawMessage, error) {
	out := map[string]map[string]json.RawMessage{}
	for _, r := range all {
		m, err := Decode(r)
		if err != nil {
			return nil, err
		}
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("%s %s: %w", r.Type, r.Name, err)
		}
		var compact bytes.Buffer // protojson's spacing differs from run to run on purpose
		if err := json.Compact(&compact, text); err != nil {
			return nil, err
		}
		if out[r.Type.String()] == nil {
			out[r.Type.String()] = map[string]json.RawMessage{}
		}
		out[r.Type.String()][r.Name] = compact.Bytes()
	}
	return json.Marshal(out)
}
