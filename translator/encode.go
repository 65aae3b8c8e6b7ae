package translator

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/wattle-mesh/wattle/configs"
)

// versionBytes of a SHA-256 are a version: 96 bits, so that equal versions mean equal bytes.
const versionBytes = 12

// validator is what protoc-gen-validate makes.
type validator interface{ ValidateAll() error }

// encode validates and encodes a message, once for all who get it.
func encode(key Key, m proto.Message, origin string) (*Resource, error) {
	if v, ok := m.(validator); ok {
		if err := v.ValidateAll(); err != nil {
			return nil, fmt.Errorf("%s %s (%s): %w", key.Type, key.Name, origin, err)
		}
	}
	body, err := deterministic(m)
	if err != nil {
		return nil, fmt.Errorf("%s %s (%s): %w", key.Type, key.Name, origin, err)
	}
	sum := sha256.Sum256(body)
	version := base64.RawURLEncoding.EncodeToString(sum[:versionBytes])
	return Encoded(key, version, body, origin)
}

// Encoded makes a resource of a body that is encoded already.
func Encoded(key Key, version string, body []byte, origin string) (*Resource, error) {
	wire, err := deterministic(&discoveryv3.Resource{
		Name: key.Name, Version: version,
		Resource: &anypb.Any{TypeUrl: key.Type.URL(), Value: body},
	})
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", key.Type, key.Name, err)
	}
	return &Resource{Key: key, Version: version, Wire: wire, Origin: origin}, nil
}

func deterministic(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// packer packs extension configurations and keeps the first error, so that building stays an expression.
type packer struct {
	err     error
	retries *routev3.RetryPolicy // of routes that do not say, once made
	variant string               // of the clusters that routes lead to
}

// any packs m.
func (p *packer) any(m proto.Message) *anypb.Any {
	if v, ok := m.(validator); ok && p.err == nil {
		p.err = v.ValidateAll()
	}
	body, err := deterministic(m)
	if err != nil && p.err == nil {
		p.err = err
	}
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: body}
}

// extension packs m under the name of an extension.
func (p *packer) extension(name string, m proto.Message) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: name, TypedConfig: p.any(m)}
}

// encode is the package's encode, unless packing failed.
func (p *packer) encode(key Key, m proto.Message, origin string) (*Resource, error) {
	if p.err != nil {
		return nil, fmt.Errorf("%s %s (%s): %w", key.Type, key.Name, origin, p.err)
	}
	return encode(key, m, origin)
}

// ads is where Envoy gets what a resource refers to: the stream that the resource came on.
func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

func duration(d *configs.Duration) *durationpb.Duration {
	if d == nil {
		return nil
	}
	return durationpb.New(time.Duration(*d))
}

func u32(v *uint32) *wrapperspb.UInt32Value {
	if v == nil {
		return nil
	}
	return wrapperspb.UInt32(*v)
}
