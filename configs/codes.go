package configs

import (
	"slices"
	"strings"
)

// Code explains a diagnostic code. Codes are stable: a code keeps its meaning, and one that is no longer used is
// not used again for something else.
type Code struct {
	Code    string `json:"code"`
	Title   string `json:"title"`
	Explain string `json:"explain"` // what it means, and what causes it
	Remedy  string `json:"remedy"`  // what to do
}

// String returns the code, its title, the explanation and what to do, as a person reads them.
func (c Code) String() string {
	return c.Code + ": " + c.Title + "\n\n" + c.Explain + "\n\nWhat to do: " + c.Remedy
}

// The codes of this package. W10xx is about syntax, W11xx about which blocks and attributes there are, W12xx about
// their values, W13xx about names that policies refer to, W14xx about files.
const (
	codeSyntax     = "W1001"
	codeJSONSyntax = "W1002"
	codeTooDeep    = "W1003"

	codeUnknownAttr  = "W1101"
	codeUnknownBlock = "W1102"
	codeMissingAttr  = "W1103"
	codeLabels       = "W1104"
	codeBlockTwice   = "W1105"
	codeMissingBlock = "W1106"
	codeNotHere      = "W1107"
	codeExactlyOne   = "W1108"
	codeType         = "W1109"

	codeExpression  = "W1201"
	codeUnknownName = "W1202"
	codeVariable    = "W1203"
	codeCircle      = "W1204"
	codeTooMuch     = "W1205"
	codeDuration    = "W1210"
	codeRange       = "W1211"
	codeAddress     = "W1212"
	codeRegex       = "W1213"
	codeWord        = "W1214"
	codeName        = "W1215"
	codePath        = "W1216"
	codeHeader      = "W1217"
	codeDomain      = "W1218"
	codeEmpty       = "W1219"
	codeWeightSum   = "W1220"
	codeWeightMix   = "W1221"
	codeLoopback    = "W1222"
	codeAttach      = "W1223"
	codeNoEffect    = "W1224"
	codePattern     = "W1225"
	codeFilter      = "W1226"

	codeDuplicate      = "W1301"
	codeTwoRules       = "W1302"
	codeWorkloadTwice  = "W1303"
	codeAddressTaken   = "W1304"
	codeNoSubset       = "W1305"
	codeNoGateway      = "W1306"
	codeNoHost         = "W1307"
	codeHostAddress    = "W1308"
	codeNoPort         = "W1309"
	codeNoEndpoint     = "W1310"
	codeNeverReached   = "W1311"
	codeFolder         = "W1401"
	codeFile           = "W1402"
	codeSymlink        = "W1403"
	codeTooBig         = "W1404"
	codeUTF8           = "W1405"
	codeNoPolicy       = NoPolicyFiles
	codeNamespaceTwice = "W1407"
	codeRemoved        = "W1408"
)

// NoPolicyFiles is the code of a warning that a folder holds no files. Who does not need any can leave it out.
const NoPolicyFiles = "W1406"

// Explain returns the explanation of a code, and false if there is no such code.
func Explain(code string) (Code, bool) {
	i := slices.IndexFunc(codes, func(c Code) bool { return strings.EqualFold(c.Code, code) })
	if i < 0 {
		return Code{}, false
	}
	return codes[i], true
}

// Codes returns all codes in order.
func Codes() []Code { return slices.Clone(codes) }

// codes is the table of all stages' codes; only the rows of this package are written by this package.
var codes = slices.Concat([]Code{
	{codeSyntax, "the file is not HCL",
		"The parser stopped at this place. The usual causes are a missing quote or brace, a missing `=`, and a block whose `{` is not on the line of its name.",
		"Mend it here or just before: an unclosed quote or brace is often lines above."},
	{codeJSONSyntax, "the file is not JSON",
		"Files that end in .json hold the same language in HCL's JSON form: blocks are objects, their labels are keys, and strings are templates.",
		"Mend it here or just before: quotes around keys and strings, commas between elements, as many brackets closed as opened."},
	{codeTooDeep, "nested too deep",
		"Blocks, brackets and operators may be nested 100 deep, which no policy needs.",
		"Take inner parts out into a locals block and refer to them by name."},

	{codeUnknownAttr, "unknown attribute",
		"The block has no attribute of this name. docs/policy.md lists what each block has.",
		"Correct the name, or remove the attribute. If it is a block, write it without the equals sign."},
	{codeUnknownBlock, "unknown block",
		"There is no block of this type at this place. docs/policy.md lists which blocks may stand where.",
		"Correct the name, or move the block to where it belongs. If it is an attribute, write it with an equals sign."},
	{codeMissingAttr, "missing attribute",
		"The block does not work without this attribute, and there is no default for it.",
		"Add the attribute."},
	{codeLabels, "wrong number of labels",
		"Labels are the quoted words between a block's type and its brace. Each type of block has a fixed number of them, mostly one: the name.",
		"Give the block the labels that docs/policy.md shows for it, each in quotes."},
	{codeBlockTwice, "block given twice",
		"This block may stand once at this place; of two it would not be clear which one holds.",
		"Put what both say into one block, and remove the other."},
	{codeMissingBlock, "missing block",
		"The block does nothing without a block of this type in it.",
		"Add the block."},
	{codeNotHere, "not allowed here",
		"The block or attribute exists, but not at this place: a folder of services holds only host, service, variable and locals blocks; health checks, upstreams, commands and instances belong to workloads, which stand in a host block or in an agent's services folder; endpoints belong to services outside the mesh.",
		"Move the block or attribute to where it belongs, or remove it."},
	{codeExactlyOne, "exactly one of several",
		"Of these attributes and blocks exactly one must be given: none leaves the meaning open, two contradict each other.",
		"Keep the one that is meant and remove the others; if there is none, add one."},
	{codeType, "wrong type",
		"The value has another type than the attribute wants. Types are not converted: 80 is a number, \"80\" is a string.",
		"Write the value in the type that the attribute has in docs/policy.md."},

	{codeExpression, "the expression cannot be computed",
		"A function refused its arguments, an operator does not fit the values, or a function or file() may not do what is asked: file() reads only below the policy folder.",
		"Correct the expression. For file(), give a path below the policy folder, relative to the file that it stands in."},
	{codeUnknownName, "unknown name in an expression",
		"Expressions know var.NAME, local.NAME, the names that a for expression or a dynamic block introduces, and the functions listed in docs/policy.md. A plain word is a name: text stands in quotes.",
		"Correct the name, declare the variable or local, or write text in quotes."},
	{codeVariable, "a variable without a fitting value",
		"Each variable needs a default or a value given with -var NAME=VALUE, and the value must have the variable's type. A value can be given only for a variable that is declared.",
		"Give the variable a default, give the value with -var NAME=VALUE, or correct the value or the name."},
	{codeCircle, "locals refer to each other in a circle",
		"The value of a local cannot depend on itself, also not by way of other locals.",
		"Compute one of the locals without the others."},
	{codeTooMuch, "the expression makes too much",
		"What expressions and dynamic blocks may make is bounded, so that a mistake in a loop cannot fill the machine.",
		"Make fewer or smaller values: shorter lists in loops, or several files."},
	{codeDuration, "not a duration",
		"A duration is a string of numbers with units: \"250ms\", \"2s\", \"1h30m\". The units are ns, us, ms, s, m and h; Envoy counts in milliseconds.",
		"Write a number with its unit, in quotes."},
	{codeRange, "number out of range",
		"The number or duration is below or above what this attribute accepts, has a fraction where none is possible, or is none of the few that have a meaning there. Values far off are mostly slips: milliseconds for seconds, a port with a digit too many.",
		"Write a number that the attribute accepts; the message and docs/policy.md say which."},
	{codeAddress, "not an address",
		"Addresses are written as IP addresses, IPv6 in brackets if a port follows: \"10.0.0.1\", \"10.0.0.1:8080\", \"[fd00::1]:8080\". Names are not resolved here.",
		"Write the address in numbers, with a port where one is asked for."},
	{codeRegex, "not a regular expression",
		"Regular expressions are RE2: no look-around and no back references. They match the whole value.",
		"Correct the expression; what needs look-around can often be said with two match blocks."},
	{codeWord, "not one of the words",
		"This attribute accepts only the words that are listed.",
		"Write one of the words that the message lists."},
	{codeName, "not a valid name",
		"Names of services, namespaces, hosts and gateways become parts of host names and identities: lower-case letters, digits and hyphens, at most 63, with a letter or digit at both ends.",
		"Choose a name of these characters."},
	{codePath, "not a path",
		"Paths of requests begin with a slash. What uri is compared with is the path without the query.",
		"Write a path that begins with a slash, without spaces. The query is matched with query_params."},
	{codeHeader, "not a header name",
		"Header names are written in the characters that HTTP allows, and each once. What HTTP/2 writes as :path, :method and :authority has attributes of its own.",
		"Correct the name; use uri, method or the virtual service's hosts for what begins with a colon."},
	{codeDomain, "not a domain",
		"A domain is a host name as clients write it in the Host header, \"*\" for all, or \"*.example.com\" for all below it; no port and no scheme.",
		"Write the host name alone, in lower case."},
	{codeEmpty, "empty",
		"An empty value means nothing here. Often it comes of a variable or a local that is empty.",
		"Give it a value, or leave it out."},
	{codeWeightSum, "the weights are all zero",
		"Requests are shared out by weight, so at least one destination must have one.",
		"Give at least one destination a weight above zero."},
	{codeWeightMix, "some destinations have a weight and some have none",
		"Either every destination of a rule says its weight, or none does and all get the same share.",
		"Give all of them a weight, or none."},
	{codeLoopback, "not a loopback address",
		"What listens here is trusted by whoever can reach it, so it must not be reachable from other machines: 127.0.0.0/8, ::1, or a unix socket.",
		"Use 127.0.0.1, [::1] or unix:/path; to reach it from elsewhere, forward it over SSH."},
	{codeAttach, "hosts and gateways do not fit",
		"Services are called from inside the mesh, domains arrive at gateways. A virtual service for services attaches to \"mesh\", one for domains to gateways; it may do both.",
		"Add \"mesh\" or a gateway to gateways, or write hosts that fit."},
	{codeNoEffect, "a value without effect",
		"Another value of the same rule is reached first: a try that may take longer than all tries together is never cut off by its own limit. A warning.",
		"Make it smaller than the limit that is reached first, or remove it."},
	{codePattern, "not a pattern of names",
		"A registry's include and exclude blocks pick services by name, or by \"namespace/name\", in which `*` stands for any characters and `?` for one.",
		"Write a name with or without its namespace: \"web-*\", \"shop/*\"."},
	{codeFilter, "not an expression over endpoints",
		"A filter is an expression of go-bexpr over name, namespace, tags and meta. The message says where it cannot be read, or what it asks for that endpoints do not have.",
		"Write for example \"mesh in tags\", \"meta.version != v1\" or \"name matches `^web-`\"."},

	{codeDuplicate, "name used twice",
		"Two blocks of one type in one namespace have the same name, or a list has one entry twice. Both places are shown. A copied block whose name was left is the usual cause.",
		"Rename or remove one of the two."},
	{codeTwoRules, "two destination rules for one service",
		"A service has at most one destination_rule, so that it is never a question which of them holds.",
		"Put both into one block."},
	{codeWorkloadTwice, "workload given twice on one host",
		"One host has the same service twice. Several instances of a service on one host are told apart by the attribute instance.",
		"Give each instance an instance name of its own, or remove one."},
	{codeAddressTaken, "address used twice on one host",
		"Two things on one host would listen at the same address and port: applications, upstreams, gateways, or the host's range of 32 mesh ports.",
		"Give one of the two another address or port."},
	{codeNoSubset, "unknown subset",
		"A route names a subset that no destination_rule for that service declares, so it is not known which endpoints are meant. The name is misspelt, the subset was removed or renamed, or the rule's host is another service (a short name means the one of its own namespace). Of a service that no file declares, W2001 and W2004 say it, with what the registries know.",
		"Correct the name of the subset, or declare it in the service's destination_rule."},
	{codeNoGateway, "unknown gateway",
		"A virtual service attaches to a gateway that no gateway block declares, so no request would ever reach its rules. The name is misspelt, the gateway was removed, or it is in another namespace: a short name means one of the virtual service's own.",
		"Correct the name, declare the gateway, or write \"namespace/name\" if it is in another namespace."},
	{codeNoHost, "unknown host",
		"A gateway runs on a host that no host block declares, so it would run nowhere. The name is misspelt, or the host was removed. This is checked only if there are host blocks at all; otherwise hosts are known by the agents that join.",
		"Correct the name in run_on, or declare the host."},
	{codeHostAddress, "two hosts at one address",
		"Two hosts have the same address, and their ranges of 32 mesh ports overlap.",
		"Give one of them another mesh_port, at least 32 away, or correct an address."},
	{codeNoPort, "unknown port",
		"A health check or an endpoint names a port that its service does not have. What is meant is the port that callers ask for, in port or ports, not the one in local where the application listens.",
		"Write one of the service's ports, or add the port to the service."},
	{codeNoEndpoint, "service without endpoints",
		"A service that stands alone in the policy is one outside the mesh, known by its endpoint blocks. A workload stands in a host block. A warning.",
		"Add endpoint blocks, or move the service into a host block if it is a workload."},
	{codeNeverReached, "rule never reached",
		"Rules are tried in order, and an earlier rule matches every request. A warning.",
		"Move the rule before the one that takes every request, or give that one a match block."},

	{codeFolder, "the folder cannot be read",
		"The policy folder does not exist, is no folder, or may not be read by this user.",
		"Correct the path, make the folder, or give this user the right to read and enter it."},
	{codeFile, "the file cannot be read",
		"The file is missing or cannot be read: permissions, a link that leads nowhere or in a circle, or something that is no regular file.",
		"Correct the path of a file that is missing; give this user the right to read it; mend or remove a link that leads nowhere or in a circle; move away what is no regular file."},
	{codeSymlink, "a link that is not followed",
		"Symbolic links are followed only to files that are themselves below the policy folder.",
		"Copy the file or folder to the place of the link, or give the folder to the command itself."},
	{codeTooBig, "too big",
		"A file may have 4 MiB, a folder 64 MiB and 20000 files. Larger policies are better made with variables, locals and dynamic blocks.",
		"Spread the policy over several files, or make it shorter with variables, locals and dynamic blocks."},
	{codeUTF8, "not UTF-8",
		"Policy files are text in UTF-8. Old editors save Latin-1 or Windows-1252, where letters with accents are other bytes; a file of another kind may only have a policy file's name.",
		"Save the file as UTF-8 in your editor, or convert it with iconv."},
	{codeNoPolicy, "no policy files",
		"The folder holds no file that ends in .hcl or .json. A warning.",
		"Correct the path of the folder, or put a policy file into it."},
	{codeNamespaceTwice, "two namespaces for one folder",
		"Two namespace blocks give the same folder to two namespaces, so that it is not clear in which of them its blocks are.",
		"Remove one of the two namespace blocks, or correct its path."},
	{codeRemoved, "a file in force was removed",
		"A policy file is gone while the server runs, and with it blocks that stand in no other file: an accident, or half of a deployment. Nothing changes until somebody says that it is meant. A file that is renamed, or whose blocks moved to other files, is no error, nor is an empty one that is removed. At its next start the server takes the folder as it is.",
		"Put the file back, or say that its blocks shall go with wattle policy accept, or remove its blocks first and then the file."},
	{CodeVanished, "a block is gone from a watched file and still in force",
		"A host or service block of a static registry's folder or of services.d, or a registry block of the server's file, vanished. A file that is half written looks so, too: the block stays in force for 5 s, and is believed to be gone when it has not come back by then.",
		"Put it back if it was not meant. If it was, wait, or have the server's file taken as it is at once: systemctl reload wattle-server."},
}, laterCodes)
