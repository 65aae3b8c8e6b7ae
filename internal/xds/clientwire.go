package xds

import (
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/wattle-mesh/wattle/translator"
)

// query is a DeltaDiscoveryRequest to be encoded.
type query struct {
	node      []byte
	typ       translator.Type
	subscribe []string
	initial   map[string]string
	nonce     string
	refused   string
}

// outgoing is an encoded request.
type outgoing []byte

func (q query) encode() outgoing {
	var b []byte
	if q.node != nil {
		b = protowire.AppendTag(b, requestNode, protowire.BytesType)
		b = protowire.AppendBytes(b, q.node)
	}
	b = appendString(b, requestTypeURL, q.typ.URL())
	for _, name := range q.subscribe {
		b = appendString(b, requestSubscribe, name)
	}
	for name, version := range q.initial {
		b = protowire.AppendTag(b, requestInitial, protowire.BytesType)
		b = protowire.AppendBytes(b, appendString(appendString(nil, 1, name), 2, version))
	}
	if q.nonce != "" {
		b = appendString(b, requestNonce, q.nonce)
	}
	if q.refused != "" {
		detail := protowire.AppendTag(nil, 1, protowire.VarintType) // google.rpc.Status.code
		detail = protowire.AppendVarint(detail, uint64(codes.InvalidArgument))
		detail = appendString(detail, 2, strings.ToValidUTF8(q.refused, "?"))
		b = protowire.AppendTag(b, requestError, protowire.BytesType)
		b = protowire.AppendBytes(b, detail)
	}
	return b
}

// incoming is a decoded DeltaDiscoveryResponse.
type incoming struct {
	typ       translator.Type
	known     bool
	nonce     string
	stamp     Stamp // zero: the server says none
	resources []*translator.Resource
	removed   []string
}

func (r *incoming) decode(b []byte) error {
	*r = incoming{}
	err := fields(b, func(num protowire.Number, v []byte) error {
		switch num {
		case responseResources:
			res := &translator.Resource{Wire: append([]byte{}, v...)}
			r.resources = append(r.resources, res)
			return decodeResource(res)
		case responseVersion:
			r.stamp, _ = ParseStamp(string(v))
		case responseTypeURL:
			r.typ, r.known = typeOf(v)
		case responseNonce:
			r.nonce = string(v)
		case responseRemoved:
			r.removed = append(r.removed, string(v))
		}
		return nil
	})
	for _, res := range r.resources {
		res.Type = r.typ
	}
	return err
}

// Packed is what Unpack read.
type Packed struct {
	ID        string
	Stamp     Stamp // zero: none was packed
	Resources []*translator.Resource
}

// Pack encodes resources of any types as one message, which Unpack reads: a DeltaDiscoveryResponse whose
// system_version_info is id, and whose nonce is the stamp.
func Pack(id string, stamp Stamp, resources []*translator.Resource) []byte {
	out := appendString(nil, responseVersion, id)
	if stamp != (Stamp{}) {
		out = appendString(out, responseNonce, stamp.String())
	}
	for _, r := range resources {
		out = protowire.AppendTag(out, responseResources, protowire.BytesType)
		out = protowire.AppendBytes(out, r.Wire)
	}
	return out
}

// Unpack returns what was packed, without Variant and Origin. It keeps no part of b.
func Unpack(b []byte) (p Packed, err error) {
	err = fields(b, func(num protowire.Number, v []byte) error {
		switch num {
		case responseVersion:
			p.ID = string(v)
		case responseNonce:
			p.Stamp, _ = ParseStamp(string(v))
		case responseResources:
			res := &translator.Resource{Wire: append([]byte{}, v...)}
			p.Resources = append(p.Resources, res)
			known := false
			if err := decodeResource(res); err != nil {
				return err
			}
			err := fields(res.Wire, func(num protowire.Number, v []byte) error {
				if num != resourceBody {
					return nil
				}
				return fields(v, func(num protowire.Number, v []byte) error {
					if num == anyTypeURL {
						res.Type, known = typeOf(v)
					}
					return nil
				})
			})
			if err == nil && !known {
				err = fmt.Errorf("resource %q is of no type of ours", res.Name)
			}
			return err
		}
		return nil
	})
	return p, err
}

// decodeResource fills in what res.Wire says of itself.
func decodeResource(res *translator.Resource) error {
	return fields(res.Wire, func(num protowire.Number, v []byte) error {
		switch num {
		case resourceVersion:
			res.Version = string(v)
		case resourceName:
			res.Name = string(v)
		}
		return nil
	})
}
