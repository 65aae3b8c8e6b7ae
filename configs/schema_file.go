package configs

import (
	"fmt"
	"strings"
)

// folderKind says which blocks may stand in a folder.
type folderKind string

const (
	policyFolder   folderKind = "policy folder"
	servicesFolder folderKind = "folder of services"
	registryFolder folderKind = "folder of a registry"
)

// decoded is everything that one file says. It is kept until the file changes, and not written after it was decoded.
type decoded struct {
	virtualServices  []*VirtualService
	destinationRules []*DestinationRule
	serviceDefaults  []*ServiceDefaults
	gateways         []*Gateway
	hostBlocks       []*Host
	services         []*Service

	// What is checked against the other files.
	names       []uniqueName
	ruleHosts   []nameRef // services of destination rules
	subsetRefs  []subsetRef
	gatewayRefs []nameRef
	hostRefs    []nameRef
	binds       []hostBind   // of gateways
	hosts       []*hostScope // what host blocks take
	folder      hostScope    // what workloads of a folder of services take

	reads []*source // what file() read
	diags Diagnostics
}

// report adds a diagnostic, up to a limit: after a hundred nobody reads on.
func (o *decoded) report(d Diagnostic) {
	if len(o.diags) < maxDiagnostics {
		o.diags = append(o.diags, d)
	}
}

type (
	// uniqueName is a name that no other block of its kind may have.
	uniqueName struct {
		kind, name string
		place      place
	}
	// nameRef is a reference to something by name.
	nameRef struct {
		name  string
		place place
	}
	subsetRef struct {
		host   ServiceRef
		subset string
		place  place
	}
	// hostBind is an address that something takes on a host.
	hostBind struct {
		host string
		taken
	}
)

// String returns "namespace/name".
func (r ServiceRef) String() string { return r.Namespace + "/" + r.Name }

var fileBlock = newBlock(block[decoded]{
	doc: "What may stand in a policy file.",
	blocks: []child[decoded]{
		global("mesh", meshBlock, "What holds for the whole mesh."),
		many("virtual_service", virtualServiceBlock, func(o *decoded) *[]*VirtualService { return &o.virtualServices }, "How requests are routed.").only(policyFolder),
		many("destination_rule", destinationRuleBlock, func(o *decoded) *[]*DestinationRule { return &o.destinationRules }, "How a service is called.").only(policyFolder),
		many("service_defaults", serviceDefaultsBlock, func(o *decoded) *[]*ServiceDefaults { return &o.serviceDefaults }, "What the registries do not say of a service.").only(policyFolder),
		many("gateway", gatewayBlock, func(o *decoded) *[]*Gateway { return &o.gateways }, "Where requests enter the mesh.").only(policyFolder),
		many("host", hostBlock, func(o *decoded) *[]*Host { return &o.hostBlocks }, "A machine with an agent, and its workloads."),
		many("service", serviceBlock, func(o *decoded) *[]*Service { return &o.services }, "A service outside the mesh."),
		global("namespace", namespaceBlock, "A folder's namespace."),
		global("variable", variableBlock, "A value from outside."),
		global("locals", localsBlock, "Names for expressions."),
	},
})

// global is a block that is decoded before all files, into the env.
func global[U any](name string, b *block[U], doc string) child[decoded] {
	return child[decoded]{name: name, doc: doc, many: true, shape: b.describe, decode: func(*decoder, header, *decoded) {}}
}

// only refuses the block in other folders.
func (c child[T]) only(folder folderKind) child[T] {
	decode := c.decode
	c.decode = func(d *decoder, h header, t *T) {
		if d.env.folder == folder {
			decode(d, h, t)
			return
		}
		d.notInFolder(h)
	}
	return c
}

func (d *decoder) notInFolder(h header) {
	d.report(d.src.place(h.rng, nil), Error, codeNotHere, fmt.Sprintf("%s in a %s", h.typ, d.env.folder), "Only host, service, variable and locals blocks may stand here. Put it into the policy folder.")
}

// setNamespace gives a block its namespace if it says none.
func (d *decoder) setNamespace(b *Block) {
	if b.Namespace == "" {
		b.Namespace = d.namespace
	}
}

// unique claims the name of the block that is being decoded.
func (d *decoder) unique(kind, namespace, name string) {
	if name == "" {
		return // reported
	}
	if namespace != "" {
		name = namespace + "/" + name
	}
	d.out.names = append(d.out.names, uniqueName{kind, name, d.src.place(d.frame.head.rng, nil)})
}

func duplicate(kind, name string, first, at place) Diagnostic {
	name = strings.TrimPrefix(name, "default/")
	return at.diagnostic(Error, codeDuplicate, fmt.Sprintf("%s %q is given twice", kind, name), fmt.Sprintf("The first is at %s. Rename or remove one of them.", first.origin()))
}

// exactlyOne checks that one of several attributes and blocks is given.
func (d *decoder) exactlyOne(what string, names ...string) bool {
	var given []string
	for _, name := range names {
		_, _, ok := d.frame.reader.attr(name)
		if ok || d.frame.child(name, 0) != d.frame {
			given = append(given, name)
		}
	}
	switch len(given) {
	case 1:
		return true
	case 0:
		d.failFrame(d.frame, codeExactlyOne, fmt.Sprintf("%s needs one of %s", what, quoted(names)), "Give it exactly one of them.")
	default:
		d.failFrame(d.frame, codeExactlyOne, fmt.Sprintf("%s has %s", what, quoted(given)), "Remove all but one of them.")
	}
	return false
}
