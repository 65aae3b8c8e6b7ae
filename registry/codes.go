package registry

import "slices"

// The codes of diagnostics that drivers use.
const (
	SourceFailed = sourceFailed // a registry, or a part of it, cannot be read
	BadEndpoint  = badEndpoint  // an endpoint is left out
	PortConflict = "W4201"      // a port is given two protocols
	PortsDiffer  = "W4204"      // the instances of a service listen on different ports

	EndpointConflict = endpointConflict // an endpoint is described in two ways
	OddProtocol      = "W4206"          // protocol_from finds what is no protocol
)

// What DNS says of single names.
const (
	NameUnreadable    = "W4401"
	NameGone          = "W4402"
	ResolversDisagree = "W4403"
	RecordIgnored     = "W4404"
)

// What a registry's driver says of single entries, and of its own files.
const (
	BadEntry       = "W4501"
	OddEntry       = "W4502"
	EntriesCollide = "W4503"
	BadSecrets     = "W4504"
)

// What Nomad's driver says of single registrations.
const (
	RegistrationDropped = "W4601"
	RegistrationDead    = "W4602"
)

// What is wrong with the registries of the server's own file, and with the server's disk.
const (
	BadRegistry  = "W4310"
	NeedsRestart = "W4311"
	DiskFull     = "W4312"
)

// The codes of diagnostics.
const (
	sourceFailed     = "W4001"
	sourceLate       = "W4002"
	badName          = "W4101"
	repeatedName     = "W4102"
	unsorted         = "W4103"
	badPort          = "W4104"
	badEndpoint      = "W4105"
	badMeta          = "W4106"
	badWorkload      = "W4107"
	workloadConflict = "W4202"
	endpointConflict = "W4203"
	hostConflict     = "W4205"

	massDisappearance = "W4300"
	fromSnapshot      = "W4301"
	snapshotDamaged   = "W4302"
	snapshotUnwritten = "W4303"
	tooMuch           = "W4304"
)

// Code explains a diagnostic code.
type Code struct {
	Code    string `json:"code"`
	Title   string `json:"title"`
	Explain string `json:"explain"`
}

// Codes returns all codes in order.
func Codes() []Code {
	return []Code{
		{sourceFailed, "a registry cannot be read",
			"What it said last stays in force, and it is asked again with growing pauses of up to 30 s. The message says what it answered."},
		{sourceLate, "a registry has not answered in time",
			"The mesh starts without it once its sync_timeout has passed, and takes its services in as soon as it answers. Until then calls to services that only it knows are answered with 503."},
		{badName, "a service's name cannot be used",
			"A namespace and a name consist of lower-case letters, digits and hyphens, at most 63, with a letter or digit at both ends: they become part of the service's identity and of the host names that TLS clients ask for. The service is left out; give it another name in its registry, or in the registry's block by rename (namespaces for a namespace)."},
		{repeatedName, "one registry names a service twice",
			"The first one is used, the others are left out. Put all endpoints into one service."},
		{unsorted, "a registry's driver gives its services out of order",
			"They are sorted and used. This is a fault of the driver: please report it."},
		{badPort, "a service's port cannot be used",
			"A port has a number from 1 to 65535 that no other port of the service has, and the protocol http, http2, grpc, tcp or none. The port is left out, and with it the endpoints that serve it."},
		{badEndpoint, "an endpoint cannot be used",
			"An endpoint has an IP address that a packet can be sent to, a port from 1 to 65535, and serves a port that its service has. One that repeats another of its service, or says a health or a weight that does not exist, is not used either. The endpoint is left out."},
		{badMeta, "an endpoint's metadata cannot be used",
			"Keys and values are UTF-8, at most 64 of them and 4 KiB in all. The endpoint is left out: without its labels it could end up in the wrong subset."},
		{badWorkload, "an endpoint's workload cannot be used",
			"A workload runs on a host with a name and an address, belongs to the service that its endpoint serves, has the endpoint's port, and is the only one of its instance name there. The endpoint is left out."},
		{PortConflict, "a port is given two protocols",
			"Two registries, or two blocks of one, disagree. The one that is asked first wins: the policy folder, then the registries in the order of the server's configuration. Let them say the same, or let only one of them name the protocol."},
		{workloadConflict, "registries declare one workload differently",
			"The registry that is asked first declares it alone; the others' word on its health and labels still counts. Declare the workload in one place."},
		{endpointConflict, "registries disagree about an endpoint",
			"Labels are united; where two registries give one label, the priority, the weight or the locality different values, the registry that is asked first wins. Let them say the same, or let only one of them say it."},
		{PortsDiffer, "the instances of a service listen on different ports",
			"Each instance is called on its own port, but callers need one port to name the service by. As long as nobody says which, it is the one that most instances have, of equals that of the oldest, which may change when instances come and go. Set it in the registry's block."},
		{hostConflict, "registries disagree about a host",
			"Two registries have a host of the same name with different addresses or mesh ports. There is one host of a name: the word of the registry that is asked first holds for all workloads of the host. Declare the host in one place, or give one of them another name."},
		{OddProtocol, "protocol_from finds what is no protocol",
			"The label that the registry's protocol_from names has a value that is none of http, http2 (or h2c), grpc and tcp. It is ignored: the next place in protocol_from is looked at, then other registries, then service_defaults; without any word the port is TCP."},
		{massDisappearance, "a registry lost many endpoints that still live",
			"More of a registry, or of a service, disappeared within a short time than its hold block allows, though these endpoints live, as their agents say or, where there is none, as the server finds out by connecting to them: the registry was wiped, lost its data or shows another's. The endpoints are served on until the registry names them again, they live no more, somebody accepts with wattle registry accept that they are gone, or hold's time has passed. wattle registry status lists them."},
		{fromSnapshot, "a registry has not spoken since the server started",
			"What it said before the restart, which the server keeps on disk, is served until it speaks. The message says how old that is; wattle registry check says why it cannot be read."},
		{snapshotDamaged, "a registry's snapshot on disk cannot be read",
			"The server keeps two generations of what each registry said last. One of them, or both, are not as they were written. The other one is used, or none; new ones are written as soon as the registry says something. See whether the disk is well."},
		{snapshotUnwritten, "a registry's snapshot cannot be written to disk",
			"All goes on, but a server that restarts while the registry is down would begin with an older set, or with none. The message says why: mostly the disk is full, or the folder registries in the state folder is not the server's."},
		{tooMuch, "a registry says more than is taken",
			"So that memory stays bounded, a registry has at most 100000 services and 500000 endpoints, a service 20000 endpoints and 1000 ports. What is beyond that, in the order of the names, is left out. The message says how much it is. Use the driver's filters, or several servers."},
		{BadRegistry, "a registry block cannot be used",
			"There is no driver of this type, or the name is the server's own. The registries stay as they were before the file was changed."},
		{NeedsRestart, "a change of the server's file takes effect with a restart",
			"Registry blocks are read anew whenever the file changes; everything else in it is read when the server starts. A warning: until the restart the server works with what it started with. Agents and their Envoys do not mind a restart."},
		{DiskFull, "the server's disk is full",
			"There is next to no room where the server keeps its state. Everything that is in force stays, and hosts are served on. What has to be kept first is refused: new policy, registrations, tokens. Make room, or give state_dir a disk of its own; the server goes on by itself."},
		{NameUnreadable, "a DNS name cannot be read",
			"The resolvers do not answer, refuse, or answer what cannot be used. The last answer stays in force; the name is asked again with growing pauses of up to 30 s. Other names of the registry are not concerned."},
		{NameGone, "a DNS name has no records any more",
			"The resolvers say that there is no such name, or that it has no such records. The last ones are kept for the registry's negative_hold, in case somebody makes a mistake there or a server starts with an empty zone."},
		{ResolversDisagree, "DNS resolvers disagree about a name",
			"One says that there is no such name, or no such records, and another one has some. Those are used. Let all resolvers of the registry know the same names."},
		{RecordIgnored, "DNS records contradict each other",
			"Several records lead to one address and port, one says that the service is not available while others say where it is, or they have several ports and the service block does not say which one callers name. The message says which of them are used."},
		{BadEntry, "an entry of a registry cannot be used",
			"What stands there is not what the registry's documentation asks for: it is left out, the rest is used. The message names the entry and what is wrong with it. Correct or remove it; docs/registries.md describes the form."},
		{OddEntry, "an entry of a registry has what this version does not know",
			"A misspelt field, or one of a later version of Wattle: it is ignored, the rest of the entry is used. Correct the name, or update the server."},
		{EntriesCollide, "two entries of a registry name one endpoint",
			"Two instances of a service have the same address and port. In Consul and Nomad the healthiest is used, and of equally healthy ones that which was registered last; in etcd the one that was registered last. Mostly it is one instance that was started anew under another name, and the older entry goes when its lease runs out or the registry removes it (a dead node in Consul after up to 72 hours); else correct one of them."},
		{BadSecrets, "a registry's password or certificates cannot be read",
			"The files changed and cannot be used as they are now: the connection stays as it was made before, and they are read again every few seconds. Once that connection ends the registry cannot be read. The message says which file it is and what is wrong."},
		{RegistrationDropped, "Nomad lists an instance no longer, though it runs",
			"A registration vanished from Nomad's services, but its allocation runs, its job still declares the service, and its task runs: Nomad is known to lose registrations of healthy instances. The endpoint is used as before until Nomad lists it again, its allocation ends or stops, or a new version of the job has it no more. To end it: stop the allocation, or write keep_dropped = false in the registry's block. A warning."},
		{RegistrationDead, "Nomad lists an instance that is no more",
			"The allocation of a registration has ended, or Nomad does not know it. Its address may belong to something else by now, so it is left out. Remove it with nomad service delete SERVICE ID. A warning."},
	}
}

// Explain returns the explanation of a code, and false if it is none of this package's.
func Explain(code string) (Code, bool) {
	all := Codes()
	if i := slices.IndexFunc(all, func(c Code) bool { return c.Code == code }); i >= 0 {
		return all[i], true
	}
	return Code{}, false
}
