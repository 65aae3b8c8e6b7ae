package xds

import "time"

// ProxyStatus is what the server knows of one proxy. Plain data.
type ProxyStatus struct {
	ID        string       `json:"id"`
	Connected bool         `json:"connected"`
	Since     time.Time    `json:"since,omitzero"` // of the stream
	Synced    bool         `json:"synced"`         // connected and has acknowledged everything in its scope
	Types     []TypeStatus `json:"types,omitempty"`
}

// TypeStatus is the state of one type on a proxy's stream.
type TypeStatus struct {
	Type      string `json:"type"`      // translator.Type.String
	Sent      uint64 `json:"sent"`      // generation of the last response
	Acked     uint64 `json:"acked"`     // generation that the proxy has
	Resources int    `json:"resources"` // how many are in its scope
	Nack      *Nack  `json:"nack,omitempty"`
}

// Nack is a response that a proxy refused and has not yet been sent anew with success.
type Nack struct {
	Generation uint64         `json:"generation"`
	Message    string         `json:"message"` // the proxy's words
	Resources  []NackResource `json:"resources"`
	Time       time.Time      `json:"time"`
}

// NackResource is a resource of a refused response: those that the message names, or if it names none, all of it.
type NackResource struct {
	Name   string `json:"name"`
	Origin string `json:"origin,omitempty"` // the policy position that produced it
}
