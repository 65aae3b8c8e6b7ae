// Package api is what the server says to agents and to people: the gRPC service wattle.v1.Node over mTLS, where
// hosts join, have keys certified and report what runs on them, and the HTTP API on loopback with its client. In
// come certificates, registrations and health; out go identities, the services of the mesh's own registry (the
// Registrar), and the state of the server as JSON.
package api
