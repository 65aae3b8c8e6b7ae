package configs

// meshCodes are the codes of internal/mesh, which joins the policy with what the registries know. Errors are what only
// the policy can have caused; what a registry or an agent can cause is a warning.
var meshCodes = []Code{
	{"W2001", "unknown service", "A route sends requests to a service that no registry knows and no host or service block declares. Requests that take the route are answered 503. A new policy with this is refused; if the service vanishes later, the policy stays."},
	{"W2002", "unknown or unclear port", "A route names a port that the service does not have; or it names none, the service has several, and none of them is the one that the request came for. Requests that take the route are answered 503."},
	{"W2003", "HTTP routed to a port that does not speak it", "Rules of http blocks lead to ports whose protocol is http, http2 or grpc. A port whose protocol nobody declared is taken as tcp. Requests that take the route are answered 503."},
	{"W2004", "unknown subset", "A route names a subset that the service's destination_rule does not declare. Requests that take the route are answered 503."},
	{"W2005", "two virtual services for one service", "The rules of one service stand in one virtual_service, because their order counts. Of several, the first by name counts, those in the service's own namespace first."},
	{"W2006", "two destination rules for one service", "Of several destination rules for a service, the first by name counts, those in the service's own namespace first."},
	{"W2007", "policy for an unknown service", "A virtual_service or destination_rule is for a service that no registry knows. It has no effect until the service is registered. A warning."},
	{"W2008", "one domain at two virtual services", "At one server of a gateway each domain leads to one virtual service. Of several, the first by name has it. A service at a gateway has the domains NAME (in the gateway's namespace), NAME.NAMESPACE and NAME.NAMESPACE.MESHDOMAIN."},
	{"W2009", "never served by the gateway", "A virtual_service attaches to a gateway of which no server answers to any of its hosts. A warning."},
	{"W2010", "gateway on an unknown host", "A gateway is to run on a host that no host block declares and on which nothing runs. It will run there once an agent of that name has joined. A warning."},
	{"W2011", "unknown upstream", "A workload has an upstream that no registry knows. Its listener is there and answers 503 until the service is registered. A warning."},
	{"W2012", "unknown or unclear port of an upstream", "A workload's upstream names a port that the service does not have, or names none although the service has several. Its listener answers 503. A warning."},
	{"W2013", "two listeners at one address", "Two workloads of a host have upstreams bound to the same address, or a workload and a gateway want the same one. The host's Envoy takes only the first of them. A warning."},
	{"W2014", "endpoint with another identity", "An endpoint leads to the place of a workload of another service, or to a port that the workload does not have. It is left out: calling it in plaintext would go round the workload's identity. Remove it from its registry, or register the workload as that service. A warning."},
	{"W2015", "two endpoints at one address", "Two endpoints of a service would be reached at the same address and port. A proxy keeps one of them; the other is left out. Two hosts with one address, or a registry that lists an endpoint twice, are the usual cause. A warning."},
	{"W2016", "endpoint for a port that the service does not have", "The endpoint is left out. A warning."},
	{"W2017", "no mesh port left", "Each instance of one service on a host needs a mesh port of its own, and a host has 32, from its mesh_port on. The instance is left out: nobody calls it, and it calls nobody. A warning."},
}
