package etcd

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/registry"
)

// addresses compares addresses for go-cmp.
var addresses = cmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func TestAWholeValue(t *testing.T) {
	got, ignored, err := decode([]byte(`{
		"address": "10.0.3.7",
		"ports": [{"number": 9080, "target": 31080, "protocol": "http", "name": "web"}, {"number": 9090}],
		"meta": {"version": "v3"}, "weight": 5, "locality": {"region": "eu", "zone": "eu-1", "rack": "r7"},
		"health": "draining", "reason": "it is being updated"
	}`))
	want := &instance{
		Address: netip.MustParseAddr("10.0.3.7"),
		Ports:   []instancePort{{registry.Port{Number: 9080, Name: "web", Protocol: registry.HTTP}, 31080}, {registry.Port{Number: 9090}, 9090}},
		Meta:    map[string]string{"version": "v3"}, Weight: 5, Locality: registry.Locality{Region: "eu", Zone: "eu-1", Rack: "r7"},
		Health: registry.Draining, Reason: "it is being updated",
	}
	if diff := cmp.Diff(want, got, addresses); diff != "" || err != nil || ignored != nil {
		t.Error(diff, err, ignored)
	}
}

// with is a value that is right but for one field.
func with(field string) string {
	return `{"address": "10.0.0.1", "ports": [{"number": 80}], ` + field + `}`
}

func port(fields string) string { return `{"address": "10.0.0.1", "ports": [` + fields + `]}` }

// said are values and what is wrong with them: "" is nothing, "?x" is a field x that is ignored.
var said = map[string]string{
	`{"address": "10.0.0.1", "ports": [{"number": 80}]}`:                "",
	`{"address": "fd00::1", "ports": [{"number": 65535, "target": 1}]}`: "",
	`{"address": "::ffff:10.0.0.1", "ports": [{"number": 80}]}`:         "",
	with(`"weight": 0`):    "",
	with(`"weight": 3.0`):  "",
	with(`"weight": 1e6`):  "",
	with(`"meta": {}`):     "",
	with(`"locality": {}`): "",
	with(`"reason": ""`):   "",
	port(`{"number": 80, "protocol": "grpc"}, {"number": 81}`): "",
	with(`"wieght": 3`):                 "?wieght",
	with(`"Weight": 3`):                 "?Weight",
	with(`"locality": {"zones": 1}`):    "?locality.zones",
	port(`{"number": 80, "nmae": "x"}`): "?ports[0].nmae",
	``:                                  "it is not JSON",
	`{`:                                 "it is not JSON",
	`null`:                              "the value is no object",
	`[]`:                                "the value is no object",
	`"x"`:                               "the value is no object",
	`{}`:                                "address is no IP address",
	`{"address": "10.0.0.1"}`:           "ports is no list",
	`{"ports": [{"number": 80}]}`:       "address is no IP address",
	`{"address": "web.example", "ports": [{"number": 80}]}`:  "address is no IP address",
	`{"address": "10.0.0.1:80", "ports": [{"number": 80}]}`:  "address is no IP address",
	`{"address": "fe80::1%eth0", "ports": [{"number": 80}]}`: "address is no IP address",
	`{"address": "010.0.0.1", "ports": [{"number": 80}]}`:    "address is no IP address",
	`{"address": 1, "ports": [{"number": 80}]}`:              "address is no text",
	`{"address": null, "ports": [{"number": 80}]}`:           "address is no text",
	port(``):                                  "ports is no list of 1 to 64 ports",
	port(`80`):                                "ports[0] is no object",
	port(`null`):                              "ports[0] is no object",
	port(`{}`):                                "ports[0].number is no number",
	port(`{"number": 0}`):                     "ports[0].number is no whole number from 1 to 65535: 0",
	port(`{"number": 70000}`):                 "ports[0].number is no whole number",
	port(`{"number": 80.5}`):                  "ports[0].number is no whole number",
	port(`{"number": -1}`):                    "ports[0].number is no whole number",
	port(`{"number": 1e400}`):                 "ports[0].number is no whole number",
	port(`{"number": "80"}`):                  "ports[0].number is no number",
	port(`{"number": 80, "target": 0}`):       "ports[0].target is no whole number",
	port(`{"number": 80, "target": null}`):    "ports[0].target is no number",
	port(`{"number": 80, "protocol": "udp"}`): `ports[0].protocol is none of http, http2, grpc, tcp: "udp"`,
	port(`{"number": 80, "protocol": ""}`):    "ports[0].protocol is none of",
	port(`{"number": 80, "name": 1}`):         "ports[0].name is no text",
	port(strings.Repeat(`{"number": 80}, `, 64) + `{"number": 80}`): "ports is no list of 1 to 64 ports",
	with(`"weight": 1000001`):                             "weight is no whole number from 0 to 1000000",
	with(`"weight": null`):                                "weight is no number",
	with(`"meta": []`):                                    "meta is no object",
	with(`"meta": {"a": 1}`):                              "meta has a label that is no text",
	with(`"meta": {"a": null}`):                           "meta has a label that is no text",
	with(`"meta": {"": "x"}`):                             "or has no name",
	with(`"meta": {` + labels(65) + `}`):                  "meta has 65 labels",
	with(`"meta": {` + labels(64) + `}`):                  "",
	with(`"locality": "eu"`):                              "locality is no object",
	with(`"locality": {"zone": 1}`):                       "locality.zone is no text",
	with(`"health": "passing"`):                           "health is none of healthy, unhealthy, draining",
	with(`"health": null`):                                "health is no text",
	with(`"reason": "` + strings.Repeat("ä", 1024) + `"`): "",
	with(`"reason": "` + strings.Repeat("ä", 1025) + `"`): "reason has 1025 characters",
}

func labels(n int) string {
	var all []string
	for i := range n {
		all = append(all, fmt.Sprintf(`"l%d": "x"`, i))
	}
	return strings.Join(all, ", ")
}

func TestValues(t *testing.T) {
	for value, want := range said {
		_, ignored, err := decode([]byte(value))
		got := ""
		switch {
		case err != nil:
			got = err.Error()
		case len(ignored) > 0:
			got = "?" + strings.Join(ignored, " ?")
		}
		if !strings.HasPrefix(got, want) && !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%s: %q, want %q", shorten(value), got, want)
		}
	}
	for name, c := range map[string]struct{ value, want string }{
		"more than 64 KiB":  {with(`"reason": "` + strings.Repeat("x", maxValue) + `"`), "at most 65536 are allowed"},
		"no UTF-8":          {with("\"reason\": \"\xff\""), "it is not UTF-8"},
		"something follows": {with(`"weight": 1`) + "{}", "something follows"},
		"a port twice":      {port(`{"number": 80}, {"number": 80, "target": 81}`), "ports[1].number repeats port 80"},
	} {
		if _, _, err := decode([]byte(c.value)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	f, err := os.Open("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	doc, err := jsonschema.UnmarshalJSON(f)
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("schema.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// agrees reports whether the schema and the decoder say the same of a value: it is valid if nothing is wrong with it
// and nothing of it is ignored.
func agrees(schema *jsonschema.Schema, value []byte) error {
	_, ignored, err := decode(value)
	valid := false
	var why error
	if v, jsonErr := jsonschema.UnmarshalJSON(bytes.NewReader(value)); jsonErr == nil {
		why = schema.Validate(v)
		valid = why == nil
	}
	if valid != (err == nil && len(ignored) == 0) {
		return fmt.Errorf("%s: schema %v, decoder %v %v", value, why, err, ignored)
	}
	return nil
}

func TestTheSchemaAgreesWithTheDecoder(t *testing.T) {
	schema := compileSchema(t)
	for value := range said {
		if strings.Contains(value, "1e400") {
			continue // the schema's library computes it
		}
		if err := agrees(schema, []byte(value)); err != nil {
			t.Error(err)
		}
	}
}

// Values that are put together at random out of right and wrong parts.
func TestTheSchemaAgreesWithTheDecoderOnAnything(t *testing.T) {
	schema := compileSchema(t)
	scalar := rapid.SampledFrom([]any{nil, true, "", "x", "10.0.0.1", "::1", "http", "healthy", 0, 1, 80, 65535, 65536, 1000000, 1000001, 1.5, -1})
	name := rapid.SampledFrom([]string{"address", "ports", "meta", "weight", "locality", "health", "reason", "number", "target", "protocol", "name", "zone", "", "other"})
	part := rapid.Custom(func(t *rapid.T) any {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return rapid.MapOf(name, scalar).Draw(t, "object")
		case 1:
			return []any{}
		default:
			return scalar.Draw(t, "scalar")
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		v := map[string]any{"address": "10.0.0.1", "ports": []any{map[string]any{"number": 80}}}
		for k, x := range rapid.MapOfN(name, part, 0, 3).Draw(t, "fields") {
			v[k] = x
		}
		if rapid.Bool().Draw(t, "odd port") {
			p := map[string]any{"number": 80}
			for k, x := range rapid.MapOfN(name, part, 0, 2).Draw(t, "port") {
				p[k] = x
			}
			v["ports"] = []any{p}
		}
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := agrees(schema, b); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	for value := range said {
		f.Add([]byte(value))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		i, _, err := decode(value)
		if (i == nil) == (err == nil) {
			t.Errorf("%+v, %v", i, err)
		}
	})
}
