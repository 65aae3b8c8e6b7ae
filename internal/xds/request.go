package xds

import (
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/wattle-mesh/wattle/translator"
)

// Fields of envoy.service.discovery.v3.DeltaDiscoveryRequest.
const (
	requestNode        = 1
	requestTypeURL     = 2
	requestSubscribe   = 3
	requestUnsubscribe = 4
	requestInitial     = 5
	requestNonce       = 6
	requestError       = 7
)

// errMalformed is what a request that is no protobuf message gives.
var errMalformed = errors.New("malformed delta discovery request")

// request is a decoded request. An acknowledgement, the most frequent one, is decoded without allocation.
type request struct {
	node        []byte // the encoded Node; kept only of the first request
	nodeID      string // likewise
	renamed     bool   // a later request came from a node with another id
	typ         translator.Type
	known       bool // the type is one of ours
	subscribe   []string
	unsubscribe []string
	initial     map[string]string
	answers     bool   // it has a nonce
	nonce       uint64 // meaningless if answers is false
	refused     bool
	reason      string
}

// decode parses b, of which it keeps nothing, into a request that may hold the one before it.
func (r *request) decode(b []byte) error {
	*r = request{node: r.node, nodeID: r.nodeID}
	return fields(b, func(num protowire.Number, v []byte) error {
		switch num {
		case requestNode:
			return r.setNode(v)
		case requestTypeURL:
			r.typ, r.known = typeOf(v)
		case requestSubscribe:
			r.subscribe = append(r.subscribe, string(v))
		case requestUnsubscribe:
			r.unsubscribe = append(r.unsubscribe, string(v))
		case requestInitial:
			return r.addInitial(v)
		case requestNonce:
			n, err := strconv.ParseUint(string(v), 10, 64)
			r.answers, r.nonce = err == nil, n
		case requestError:
			r.refused = true
			return fields(v, func(num protowire.Number, v []byte) error {
				if num == 2 { // google.rpc.Status.message
					r.reason = string(v)
				}
				return nil
			})
		}
		return nil
	})
}

func (r *request) setNode(b []byte) error {
	var id []byte
	err := fields(b, func(num protowire.Number, v []byte) error {
		if num == 1 { // envoy.config.core.v3.Node.id
			id = v
		}
		return nil
	})
	if r.node == nil {
		r.node, r.nodeID = append([]byte{}, b...), string(id)
	}
	r.renamed = string(id) != r.nodeID
	return err
}

func (r *request) addInitial(b []byte) error {
	if r.initial == nil {
		r.initial = map[string]string{}
	}
	var name, version string
	err := fields(b, func(num protowire.Number, v []byte) error {
		switch num {
		case 1:
			name = string(v)
		case 2:
			version = string(v)
		}
		return nil
	})
	r.initial[name] = version
	return err
}

// typeOf finds the type with this URL.
func typeOf(url []byte) (translator.Type, bool) {
	for t := range translator.NumTypes {
		if translator.Type(t).URL() == string(url) {
			return translator.Type(t), true
		}
	}
	return 0, false
}

// fields calls yield for each length-delimited field of an encoded message and passes over all others.
func fields(b []byte, yield func(protowire.Number, []byte) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		b = b[n:]
		if typ != protowire.BytesType {
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
			}
			b = b[n:]
			continue
		}
		v, n := protowire.ConsumeBytes(b)
		if n < 0 {
			return fmt.Errorf("%w: %w", errMalformed, protowire.ParseError(n))
		}
		if err := yield(num, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
