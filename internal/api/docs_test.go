package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// agents begins what docs/http-api.md says of the sockets of agents.
const agents = "\n## An agent's socket\n"

// section is what docs/http-api.md says of one request.
type section struct {
	pattern  string
	examples []string // JSON
}

var example = regexp.MustCompile("(?s)```json\n(.*?)```")

// readDocs returns what is said of the server's requests, and of an agent's.
func readDocs(t *testing.T) (server []section, agent string) {
	t.Helper()
	page, err := os.ReadFile("../../docs/http-api.md")
	if err != nil {
		t.Fatal(err)
	}
	text, agent, ok := strings.Cut(string(page), agents)
	if !ok {
		t.Fatalf("docs/http-api.md has no %q", agents)
	}
	for _, text := range strings.Split(text, "\n## `")[1:] {
		pattern, rest, ok := strings.Cut(text, "`\n")
		if !ok {
			t.Fatalf("a heading does not end: %q", clip(text, 40))
		}
		s := section{pattern: pattern}
		for _, m := range example.FindAllStringSubmatch(rest, -1) {
			s.examples = append(s.examples, m[1])
		}
		server = append(server, s)
	}
	return server, agent
}

func TestEveryRouteIsDocumented(t *testing.T) {
	h := &handler{o: HTTPOptions{Metrics: http.NotFoundHandler()}}
	var routes, documented []string
	for _, r := range h.routes() {
		routes = append(routes, r.pattern)
	}
	server, _ := readDocs(t)
	for _, s := range server {
		documented = append(documented, s.pattern)
	}
	slices.Sort(routes)
	slices.Sort(documented)
	if !slices.Equal(routes, documented) {
		t.Errorf("docs/http-api.md has sections for %q; the routes are %q", documented, routes)
	}
}

// The examples are of the types that are sent: no field is misnamed or of another kind.
func TestTheDocumentedExamplesAreWhatIsSent(t *testing.T) {
	sent := map[string][]any{
		"GET /v1/status":                                           {new(Status)},
		"GET /v1/proxies":                                          {new(Proxies)},
		"GET /v1/catalog":                                          {new(any)},
		"GET /v1/catalog/services":                                 {new(CatalogServices)},
		"GET /v1/catalog/{namespace}/{name}":                       {new(DescribedService)},
		"GET /v1/catalog/watch":                                    {new(CatalogEvent)},
		"GET /v1/policy":                                           {new(any)},
		"GET /v1/nodes":                                            {new(Nodes)},
		"GET /v1/nodes/{name}":                                     {new(NodeStatus)},
		"PUT /v1/nodes/{name}/drain":                               {new(DrainRequest), new(NodeStatus)},
		"DELETE /v1/nodes/{name}/drain":                            {new(NodeStatus)},
		"POST /v1/policy/accept":                                   {new(struct{}), new(AcceptedPolicy)},
		"GET /v1/registries":                                       {new(Registries)},
		"POST /v1/registries/{name}/accept":                        {new(Accepted)},
		"GET /v1/services":                                         {new(Services)},
		"GET /v1/services/{namespace}/{name}/{instance}":           {new(ServiceStatus)},
		"PUT /v1/services":                                         {new(ServicesRequest), new(ServicesAnswer)},
		"PUT /v1/services/{namespace}/{name}/{instance}":           {new(ServiceRequest), new(ServiceAnswer)},
		"DELETE /v1/services/{namespace}/{name}/{instance}":        {new(ServiceAnswer)},
		"PUT /v1/services/{namespace}/{name}/{instance}/heartbeat": {new(ServiceAnswer)},
		"POST /v1/tokens":                                          {new(TokenRequest), new(TokenResponse)},
		"POST /v1/nodes/{name}/certificate":                        {new(CertificateRequest), new(CertificateResponse)},
		"DELETE /v1/nodes/{name}":                                  {new(Forgotten)},
		"GET /metrics":                                             nil,
	}
	server, agent := readDocs(t)
	for _, s := range server {
		into := sent[s.pattern]
		if len(into) != len(s.examples) {
			t.Errorf("%s: %d examples, want %d", s.pattern, len(s.examples), len(into))
			continue
		}
		for i, text := range s.examples {
			decodes(t, fmt.Sprintf("%s, example %d", s.pattern, i+1), text, into[i])
		}
	}
	examples := example.FindAllStringSubmatch(agent, -1)
	if len(examples) != 1 {
		t.Fatalf("%d examples of an agent, want 1", len(examples))
	}
	decodes(t, "GET /v1/status at an agent", examples[0][1], new(HostStatus))
}

func decodes(t *testing.T, what, text string, into any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}
