package translator_test

import (
	"maps"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
)

// unwritten are fields of the policy that stand in no file by their own name, or that no resource shows.
var unwritten = map[string]string{
	"origin": "a place", "name": "a label", "type": "a label", "mode": "a label", "traffic_policy": "written flat", "mtls": "has one value",
	"mesh": "a block that may be left out", "virtual_services": "virtual_service blocks", "destination_rules": "destination_rule blocks",
	"gateways": "also gateway blocks", "hosts": "also host blocks", "services": "service blocks", "servers": "server blocks",
	"subsets": "subset blocks", "upstreams": "upstream blocks", "checks": "check blocks", "endpoints": "endpoint blocks",
	"domains": "hosts with a dot", "socket": "bind = unix:", "command": "for wattle dev", "env": "for wattle dev",
	"ttl": "for the agent", "deregister_after": "for the agent",
}

// TestEveryFieldOfThePolicyHasAGoldenCase fails when a field is added that no golden file's policy sets.
func TestEveryFieldOfThePolicyHasAGoldenCase(t *testing.T) {
	words := map[string]bool{}
	word := regexp.MustCompile(`[a-z0-9_]+`)
	for _, archive := range goldens(t) {
		for _, f := range archive.Files {
			if filepath.Ext(f.Name) == ".hcl" {
				for _, w := range word.FindAllString(string(f.Data), -1) {
					words[w] = true
				}
			}
		}
	}
	for _, field := range slices.Sorted(maps.Keys(fields(reflect.TypeFor[configs.Policy](), map[reflect.Type]bool{}))) {
		if unwritten[field] == "" && !words[field] {
			t.Errorf("%s: no golden file sets it; add a case to testdata", field)
		}
	}
}

// fields collects the JSON names below a type of the policy.
func fields(typ reflect.Type, seen map[reflect.Type]bool) map[string]bool {
	out := map[string]bool{}
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return fields(typ.Elem(), seen)
	case reflect.Struct:
	default:
		return out
	}
	if seen[typ] || typ.PkgPath() != reflect.TypeFor[configs.Policy]().PkgPath() {
		return out
	}
	seen[typ] = true
	for i := range typ.NumField() {
		f := typ.Field(i)
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			out[name] = true
		}
		maps.Copy(out, fields(f.Type, seen))
	}
	return out
}
