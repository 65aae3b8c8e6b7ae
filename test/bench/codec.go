package main

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// rawCodec passes messages as bytes: neither clients nor broadcaster spend time on decoding.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("no bytes: %T", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	into, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("no bytes: %T", v)
	}
	*into = append((*into)[:0], data.Materialize()...)
	return nil
}

// Fields of delta requests and responses that the clients read and write.
const (
	reqNode, reqType, reqSubscribe, reqInitial, reqNonce = 1, 2, 3, 5, 6
	resResource, resType, resNonce, resRemoved           = 2, 4, 5, 6
)

func put(b []byte, field protowire.Number, v string) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, v)
}

// each calls yield for the fields of a message, all of which are length-delimited where this is used.
func each(b []byte, yield func(protowire.Number, []byte)) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || typ != protowire.BytesType {
			return fmt.Errorf("not a message of this protocol")
		}
		v, m := protowire.ConsumeBytes(b[n:])
		if m < 0 {
			return protowire.ParseError(m)
		}
		yield(num, v)
		b = b[n+m:]
	}
	return nil
}
