package xds

import (
	"cmp"
	"hash/maphash"
	"slices"
	"strconv"
	"strings"
	"weak"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/wattle-mesh/wattle/translator"
)

// Fields of envoy.service.discovery.v3.DeltaDiscoveryResponse.
const (
	responseVersion   = 1
	responseResources = 2
	responseTypeURL   = 4
	responseNonce     = 5
	responseRemoved   = 6
)

// Fields of envoy.service.discovery.v3.Resource and google.protobuf.Any.
const (
	resourceVersion = 1
	resourceBody    = 2
	resourceName    = 3
	anyTypeURL      = 1
)

// message is an encoded response. Immutable, and shared by all streams that need the same content: its nonce is
// the generation, which is all that the protocol asks of a nonce as long as one response per type is unanswered.
type message struct {
	typ       translator.Type
	gen       uint64
	resources []*translator.Resource // sorted by name
	removed   []string               // sorted
	entries   []*entry               // of the resources, sorted by seq
	wire      mem.BufferSlice
	size      int
}

// maxCopied bounds the responses that are encoded in one piece. Larger ones refer to the resources' own bytes, so
// that thousands of them cost nothing.
const maxCopied = 16 << 10

// newMessage encodes a response with the entries, which are sorted by seq, and the removed names, which are sorted.
func newMessage(typ translator.Type, gen uint64, stamp Stamp, entries []*entry, removed []string) *message {
	m := &message{typ: typ, gen: gen, removed: removed, entries: slices.Clone(entries), resources: make([]*translator.Resource, len(entries))}
	nonce := strconv.FormatUint(gen, 10)
	var b []byte
	b = appendString(b, responseVersion, cmp.Or(stamp.String(), nonce))
	b = appendString(b, responseTypeURL, typ.URL())
	b = appendString(b, responseNonce, nonce)
	for _, name := range removed {
		b = appendString(b, responseRemoved, name)
	}
	m.size = len(b)
	for i, e := range entries {
		m.resources[i] = e.res
		m.size += protowire.SizeTag(responseResources) + protowire.SizeBytes(len(e.res.Wire))
	}
	slices.SortFunc(m.resources, func(a, b *translator.Resource) int { return strings.Compare(a.Name, b.Name) })
	if m.size <= maxCopied {
		b = slices.Grow(b, m.size-len(b))
		for _, r := range m.resources {
			b = protowire.AppendTag(b, responseResources, protowire.BytesType)
			b = protowire.AppendBytes(b, r.Wire)
		}
		m.wire = mem.BufferSlice{mem.SliceBuffer(b)}
		return m
	}
	m.wire = make(mem.BufferSlice, 0, 1+2*len(entries))
	m.wire = append(m.wire, mem.SliceBuffer(b))
	for _, e := range entries {
		m.wire = append(m.wire, e.wire()...)
	}
	return m
}

// wire returns the entry's resource as a field of a response: the head of the field, and the resource's own bytes.
func (e *entry) wire() []mem.Buffer {
	if e.pieces == nil {
		head := protowire.AppendTag(nil, responseResources, protowire.BytesType)
		head = protowire.AppendVarint(head, uint64(len(e.res.Wire)))
		e.pieces = &[2]mem.Buffer{mem.SliceBuffer(head), mem.SliceBuffer(e.res.Wire)}
	}
	return e.pieces[:]
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	b = protowire.AppendTag(b, field, protowire.BytesType)
	return protowire.AppendString(b, s)
}

// maxShared bounds how many messages the mint remembers.
const maxShared = 4096

// mint makes messages, and gives out again one that is still in use when the same content is asked for.
type mint struct {
	seed   maphash.Seed
	stamp  Stamp // of what is made now; constant within a generation
	gen    uint64
	shared map[uint64]weak.Pointer[message]
}

func newMint() mint {
	return mint{seed: maphash.MakeSeed(), shared: map[uint64]weak.Pointer[message]{}}
}

// message returns the response with the entries, which are sorted by seq, and the removed names, which are sorted.
func (m *mint) message(typ translator.Type, gen uint64, entries []*entry, removed []string) *message {
	if m.gen != gen || len(m.shared) >= maxShared {
		m.gen = gen
		clear(m.shared)
	}
	var h maphash.Hash
	h.SetSeed(m.seed)
	maphash.WriteComparable(&h, typ)
	for _, e := range entries {
		maphash.WriteComparable(&h, e.seq)
	}
	for _, name := range removed {
		maphash.WriteComparable(&h, name)
	}
	key := h.Sum64()
	old := m.shared[key].Value()
	if old != nil && old.typ == typ && slices.Equal(old.entries, entries) && slices.Equal(old.removed, removed) {
		return old
	}
	now := newMessage(typ, gen, m.stamp, entries, removed)
	m.shared[key] = weak.Make(now)
	return now
}
