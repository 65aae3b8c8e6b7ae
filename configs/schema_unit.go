package configs

import (
	"cmp"

	"github.com/zclconf/go-cty/cty"
)

// UnitGrant is which services the user of a systemd unit may register at the agent.
type UnitGrant struct {
	Unit     string       `json:"unit"` // "web.service"; "web@.service" is all of a template
	Services []ServiceRef `json:"services"`
	Origin   string       `json:"-"`
}

var unitBlock = newBlock(block[UnitGrant]{
	doc: "Which services the user of a systemd unit may register through the agent's socket, instead of the one of the unit's name. Only who may write this file may give that.",
	labels: []label[UnitGrant]{
		named("unit", unitName(), func(u *UnitGrant) *string { return &u.Unit }, "The unit's whole name, such as `web.service`. `web@.service` stands for all instances of a template."),
	},
	attrs:  []attr[UnitGrant]{unitServices()},
	origin: func(u *UnitGrant) *string { return &u.Origin },
})

func unitServices() attr[UnitGrant] {
	k := list(servicePattern(), 0)
	a := field("services", k, func(u *UnitGrant) *[]ServiceRef { return &u.Services }, "The services: `reviews` is one of the namespace default, `shop/reviews` one of another, `shop/*` are all of a namespace, and `*/*` all there are. An empty list: none.")
	a.set = func(d *decoder, u *UnitGrant, v cty.Value) {
		d.namespace = cmp.Or(d.namespace, "default") // the agent's file is in no namespace
		u.Services, _ = k.parse(d, v)
	}
	return a.must()
}
