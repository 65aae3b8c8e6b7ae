package xds

import (
	"errors"
	"fmt"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// codec passes our own messages as the bytes they are, and all other messages to gRPC's protobuf codec.
type codec struct{}

// farewell is a message that cannot be encoded: sending it makes gRPC end the stream with its text.
type farewell string

func (codec) Name() string { return protocodec.Name }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *message:
		return m.wire, nil
	case outgoing:
		return mem.BufferSlice{mem.SliceBuffer(m)}, nil
	case farewell:
		return nil, errors.New(string(m))
	}
	return encoding.GetCodecV2(protocodec.Name).Marshal(v)
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	var into interface{ decode([]byte) error }
	switch m := v.(type) {
	case *request:
		into = m
	case *incoming:
		into = m
	default:
		return encoding.GetCodecV2(protocodec.Name).Unmarshal(data, v)
	}
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	if err := into.decode(buf.ReadOnlyData()); err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	return nil
}
