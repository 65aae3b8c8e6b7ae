package static

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"github.com/wattle-mesh/wattle/configs"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(Schema()))
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

// between are the codes of what a schema cannot say: what several places of a file come to together.
var between = map[string]bool{
	"W1301": true, "W1302": true, "W1303": true, "W1304": true, "W1305": true, "W1306": true, "W1307": true, "W1308": true, "W1309": true, "W1310": true,
}

// verdicts returns what is wrong with the text of a file by the driver's loader, and by the schema.
func verdicts(t failing, schema *jsonschema.Schema, dir, text string) (byLoader configs.Diagnostics, bySchema error) {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.json"), []byte(text), 0o644); err != nil {
		t.Fatalf("%v", err)
	}
	_, diags := configs.NewLoader(configs.Options{}).LoadRegistry(dir)
	return slices.DeleteFunc(diags, func(d configs.Diagnostic) bool { return d.Severity != configs.Error }), schema.Validate(doc)
}

const right = `{
  "//": "a comment",
  "variable": {"zone": {"default": "eu-1"}},
  "locals": {"port": 9080},
  "service": {
    "legacy": {"port": 5432, "protocol": "tcp", "endpoint": {"address": "10.9.0.1"}},
    "idle": {"port": 5432, "protocol": "unknown"},
    "wide": {
      "namespace": "shop",
      "ports": {"http": 80, "grpc": {"number": 81, "protocol": "grpc"}, "82": {"number": 82, "name": "", "protocol": "unknown"}},
      "meta": {"version": "v1", "a b": "v${local.port}"},
      "endpoint": [
        {"address": "10.9.0.2", "port": 8080, "port_for": 80, "meta": {"x": ""}, "weight": 1000000, "priority": 65535, "region": "eu", "zone": "${var.zone}", "rack": "", "health": "draining", "reason": "so"},
        {"address": "fd00::1", "port_for": 81, "health": null}
      ]
    }
  },
  "host": [{"h1.example": {
    "address": "10.0.0.1",
    "mesh_port": 8443,
    "region": "eu",
    "zone": "eu-1",
    "rack": "r7",
    "mode": "sidecar",
    "service": {
      "reviews": [
        {"port": 9080, "local": "127.0.0.1:19080", "instance": "a", "weight": 3, "meta": {"version": "v2"}, "command": ["./run", "-x"], "env": {"A": "b"}, "unit": "web@1.service", "mode": "host", "isolate": true,
         "check": {"http": {"path": "/healthz", "interval": "1.5s", "timeout": "1s", "healthy_threshold": 2, "unhealthy_threshold": 3}, "tcp": [{"port": 9080}]},
         "upstream": {"ratings": {"bind": "127.0.0.1:9081"}, "shop/db": {"port": 5432, "bind": "unix:/run/x.sock"}, "a.shop.mesh": {"bind": "[::1]:9083"}}},
        {"port": "${local.port}", "local": 19081, "instance": "b", "capture": {"loopback": {"services": ["db", "shop/cart", "x.shop.mesh", "*", "*/*", "ops/*"]}}, "upstream": {"shop/queue": {"port": 5672}, "cache": {}}},
        {"port": 9091, "instance": "c", "capture": {"transparent": {"user": "www-data", "exclude_addresses": ["10.9.0.0/16", "10.9.3.1", "fd00::/8", "::1"], "exclude_ports": [22]}}},
        {"port": 9092, "instance": "d", "unit": "d.service", "capture": {"transparent": {}}}
      ],
      "many": {"ports": {"a": {"number": 1, "local": 1001}, "b": 2}}
    }
  }}]
}`

func TestTheSchemaAgreesWithTheLoader(t *testing.T) {
	schema, dir := compileSchema(t), t.TempDir()
	if byLoader, bySchema := verdicts(t, schema, dir, right); bySchema != nil || len(byLoader) > 0 {
		t.Fatalf("%v\n%s", bySchema, byLoader.Text())
	}
	for _, edit := range []struct{ from, to string }{ // each is wrong
		{`"legacy"`, `"Legacy"`}, {`"port": 5432, "protocol": "tcp"`, `"port": 0`}, {`"port": 5432, "protocol": "tcp"`, `"port": "5432"`},
		{`"port": 5432, "protocol": "tcp"`, `"port": 5432.5`}, {`"port": 5432, "protocol": "tcp"`, `"protocol": "tcp"`},
		{`"port": 5432, "protocol": "tcp"`, `"port": 5432, "protocol": "udp"`}, {`"port": 5432, "protocol": "tcp"`, `"port": 5432, "prot": "tcp"`},
		{`"port": 5432, "protocol": "tcp"`, `"port": 5432, "ports": {"a": 1}`}, {`"port": 5432, "protocol": "tcp"`, `"port": 5432, "weight": 2`},
		{`"port": 5432, "protocol": "tcp"`, `"port": 5432, "local": 1`}, {`"port": 5432, "protocol": "tcp"`, `"port": 5432, "check": {"tcp": {}}`},
		{`"10.9.0.1"`, `"0.0.0.0"`}, {`"10.9.0.1"`, `"224.0.0.1"`}, {`"10.9.0.1"`, `"db.example"`}, {`"10.9.0.1"`, `"::"`}, {`"10.9.0.1"`, `"ff02::1"`}, {`{"address": "10.9.0.1"}`, `{}`},
		{`"namespace": "shop"`, `"namespace": ""`}, {`{"http": 80, "grpc"`, `{"": 80, "grpc"`}, {`{"number": 81, "protocol": "grpc"}`, `{"protocol": "grpc"}`},
		{`"number": 81, "protocol"`, `"number": 81, "proto"`}, {`"meta": {"x": ""}`, `"meta": {"x": 1}`}, {`"meta": {"x": ""}`, `"meta": {"": "x"}`},
		{`"weight": 1000000`, `"weight": 1000001`}, {`"weight": 1000000`, `"weight": 0`}, {`65535, "region"`, `65536, "region"`}, {`"draining"`, `"sick"`}, {`"reason": "so"`, `"reason": 1`},
		{`"port_for": 81, `, ``}, {`"h1.example"`, `"h1..example"`}, {`"address": "10.0.0.1",`, ``}, {`8443`, `65505`}, {`"region": "eu",
`, `"region": "",
`}, {`"instance": "a"`, `"instance": "-a"`}, {`"weight": 3`, `"weight": 10001`}, {`["./run", "-x"]`, `[]`}, {`"command": ["./run", "-x"], `, ``},
		{`"path": "/healthz"`, `"path": "healthz"`}, {`"1.5s"`, `"1.5"`}, {`"1.5s"`, `1.5`}, {`"healthy_threshold": 2`, `"healthy_threshold": 0`}, {`"tcp": [{`, `"tcp": [{"path": "/", `},
		{`"tcp": [{`, `"udp": [{`}, {`"bind": "127.0.0.1:9081"`, `"bind": "10.0.0.1:9081"`}, {`"bind": "127.0.0.1:9081"`, `"bind": "127.0.0.1"`}, {`"unix:/run/x.sock"`, `"unix:run/x.sock"`},
		{`"web@1.service"`, `"web"`}, {`"mode": "sidecar"`, `"mode": "side"`}, {`"mode": "host"`, `"mode": ""`}, {`"isolate": true`, `"isolate": 1`}, {`"instance": "b"`, `"ttl": "5s"`}, {`"shop/db"`, `"shop/db/x"`}, {`"local": 1001`, `"local": "x:1"`}, {`"variable"`, `"mesh"`}, {`"number": 1, "local"`, `"number": 1, "protocol": "unknown", "local"`},
		{`{"loopback": {"services"`, `{"tproxy": {"services"`}, {`{"loopback": {"services"`, `{"loopback": {"user": "web", "services"`}, {`"capture": {"loopback": {"services": ["db", "shop/cart", "x.shop.mesh", "*", "*/*", "ops/*"]}}, `, ``},
		{`"ops/*"`, `"*/ops"`}, {`"ops/*"`, `"Ops/*"`}, {`"ops/*"`, `1`}, {`"www-data"`, `"root"`}, {`"www-data"`, `"00"`}, {`"www-data"`, `"www data"`}, {`"user": "www-data", `, ``}, {`"d", "unit": "d.service"`, `"d"`},
		{`"10.9.0.0/16"`, `"10.9.0.0/33"`}, {`"10.9.0.0/16"`, `"10.9.0/16"`}, {`"fd00::/8"`, `"fd00::/129"`}, {`"exclude_ports": [22]`, `"exclude_ports": []`}, {`"exclude_ports": [22]`, `"exclude_ports": [0]`},
		{`"capture": {"transparent": {}}`, `"capture": {"transparent": {}, "loopback": {}}`}, {`"capture": {"transparent": {}}`, `"capture": {"transparent": [{}, {}]}`},
	} {
		if strings.Count(right, edit.from) != 1 {
			t.Errorf("%s stands there %d times", edit.from, strings.Count(right, edit.from))
			continue
		}
		byLoader, bySchema := verdicts(t, schema, dir, strings.Replace(right, edit.from, edit.to, 1))
		if bySchema == nil || len(byLoader) == 0 {
			t.Errorf("%s in place of %s: by the schema %v, by the loader %s", edit.to, edit.from, bySchema, byLoader.Text())
		}
	}
}

// replace puts a value into the place-th of all places in a document. It counts places down.
func replace(v any, place *int, with func(any) any) any {
	if *place--; *place == -1 {
		return with(v)
	}
	switch v := v.(type) {
	case map[string]any:
		for _, k := range sortedKeys(v) {
			v[k] = replace(v[k], place, with)
		}
	case []any:
		for i := range v {
			v[i] = replace(v[i], place, with)
		}
	}
	return v
}

func sortedKeys(m map[string]any) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// Any place of a file holds something else.
func TestTheSchemaAgreesWithTheLoaderOnAnything(t *testing.T) {
	schema, dir := compileSchema(t), t.TempDir()
	const places = 140 // about
	scalar := rapid.SampledFrom([]any{true, "", "x", "10.0.0.1", "::1", "127.0.0.1:80", "http", "healthy", "2s", "/x", "unix:/x", 0, 1, 80, 10000, 65535, 65536, 1000000, 1000001, 1.5, -1})
	key := rapid.SampledFrom([]string{"address", "port", "ports", "port_for", "meta", "weight", "protocol", "local", "instance", "namespace", "health", "zone", "bind", "path", "interval", "number", "name", "endpoint", "check", "tcp", "other", "//", "capture", "loopback", "services", "user", "unit", "exclude_ports"})
	plain := strings.NewReplacer(`"variable": {"zone": {"default": "eu-1"}},`, ``, `"locals": {"port": 9080},`, ``, `${var.zone}`, `eu-1`, `"${local.port}"`, `9080`, `${local.port}`, ``).Replace(right)
	rapid.Check(t, func(t *rapid.T) {
		var doc any
		if err := json.Unmarshal([]byte(plain), &doc); err != nil {
			t.Fatal(err)
		}
		place := rapid.IntRange(1, places).Draw(t, "place")
		doc = replace(doc, &place, func(was any) any {
			object, ok := was.(map[string]any)
			switch what := rapid.IntRange(0, 3).Draw(t, "what"); {
			case ok && what == 0:
				object[key.Draw(t, "key")] = scalar.Draw(t, "value")
				return object
			case ok && what == 1:
				delete(object, key.Draw(t, "key"))
				return object
			case what == 2:
				return []any{was}
			}
			return scalar.Draw(t, "value")
		})
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		byLoader, bySchema := verdicts(t, schema, dir, string(text))
		together := slices.ContainsFunc(byLoader, func(d configs.Diagnostic) bool {
			return between[d.Code] || d.Code == "W1211" && strings.Contains(d.Detail, "duration")
		})
		if (bySchema == nil) != (len(byLoader) == 0) && !(bySchema == nil && together) {
			t.Fatalf("by the schema %v, by the loader %s\n%s", bySchema, byLoader.Text(), text)
		}
	})
}

// What is exported, and what the documentation shows in JSON, is as the schema says.
func TestTheExamplesAreAsTheSchemaSays(t *testing.T) {
	schema := compileSchema(t)
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	all := regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(all) == 0 {
		t.Fatal("the README shows no JSON")
	}
	for _, m := range all {
		if byLoader, bySchema := verdicts(t, schema, t.TempDir(), m[1]); bySchema != nil || len(byLoader) > 0 {
			t.Errorf("%v\n%s", bySchema, byLoader.Text())
		}
	}
}
