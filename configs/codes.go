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
	Explain string `json:"explain"`
}

// String returns the code, its title and the explanation, as a person reads them.
func (c Code) String() string { return c.Code + ": " + c.Title + "\n\n" + c.Explain }

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
	codeNoPolicy       = "W1406"
	codeNamespaceTwice = "W1407"
)

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
	{codeSyntax, "the file is not HCL", "The parser stopped at this place. The usual causes are a missing quote or brace, a missing `=`, and a block whose `{` is not on the line of its name."},
	{codeJSONSyntax, "the file is not JSON", "Files that end in .json hold the same language in HCL's JSON form: blocks are objects, their labels are keys, and strings are templates."},
	{codeTooDeep, "nested too deep", "Blocks, brackets and operators may be nested 100 deep, which no policy needs. Give parts of the expression names in a locals block."},

	{codeUnknownAttr, "unknown attribute", "The block has no attribute of this name. docs/policy.md lists what each block has."},
	{codeUnknownBlock, "unknown block", "There is no block of this type at this place. docs/policy.md lists which blocks may stand where."},
	{codeMissingAttr, "missing attribute", "The block does not work without this attribute, and there is no default for it."},
	{codeLabels, "wrong number of labels", "Labels are the quoted words between a block's type and its brace. Each type of block has a fixed number of them, mostly one: the name."},
	{codeBlockTwice, "block given twice", "This block may stand once at this place."},
	{codeMissingBlock, "missing block", "The block does not work without a block of this type in it."},
	{codeNotHere, "not allowed here", "The block or attribute exists, but not at this place: a folder of services holds only host, service, variable and locals blocks; health checks, upstreams, commands and instances belong to workloads, which stand in a host block or in an agent's services folder; endpoints belong to services outside the mesh."},
	{codeExactlyOne, "exactly one of several", "Of these attributes and blocks exactly one must be given: none leaves the meaning open, two contradict each other."},
	{codeType, "wrong type", "The value has another type than the attribute wants. Types are not converted: 80 is a number, \"80\" is a string."},

	{codeExpression, "the expression cannot be computed", "A function refused its arguments, an operator does not fit the values, or a function or file() may not do what is asked: file() reads only below the policy folder."},
	{codeUnknownName, "unknown name in an expression", "Expressions know var.NAME, local.NAME, the names that a for expression or a dynamic block introduces, and the functions listed in docs/policy.md. A plain word is a name: text stands in quotes."},
	{codeVariable, "a variable without a fitting value", "Each variable needs a default or a value given with -var NAME=VALUE, and the value must have the variable's type. A value can be given only for a variable that is declared."},
	{codeCircle, "locals refer to each other in a circle", "The value of a local cannot depend on itself."},
	{codeTooMuch, "the expression makes too much", "What expressions and dynamic blocks may make is bounded, so that a mistake in a loop cannot fill the machine."},
	{codeDuration, "not a duration", "A duration is a string of numbers with units: \"250ms\", \"2s\", \"1h30m\". The units are ns, us, ms, s, m and h; Envoy counts in milliseconds."},
	{codeRange, "number out of range", "The number is below or above what this attribute accepts, or it has a fraction where none is possible."},
	{codeAddress, "not an address", "Addresses are written as IP addresses, IPv6 in brackets if a port follows: \"10.0.0.1\", \"10.0.0.1:8080\", \"[fd00::1]:8080\". Names are not resolved here."},
	{codeRegex, "not a regular expression", "Regular expressions are RE2: no look-around and no back references. They match the whole value."},
	{codeWord, "not one of the words", "This attribute accepts only the words that are listed."},
	{codeName, "not a valid name", "Names of services, namespaces, hosts and gateways become parts of host names and identities: lower-case letters, digits and hyphens, at most 63, with a letter or digit at both ends."},
	{codePath, "not a path", "Paths of requests begin with a slash."},
	{codeHeader, "not a header name", "Header names are written in the characters that HTTP allows, and each once. What HTTP/2 writes as :path, :method and :authority has attributes of its own."},
	{codeDomain, "not a domain", "A domain is a host name as clients write it in the Host header, \"*\" for all, or \"*.example.com\" for all below it; no port and no scheme."},
	{codeEmpty, "empty", "An empty value means nothing here."},
	{codeWeightSum, "the weights are all zero", "Requests are shared out by weight, so at least one destination must have one."},
	{codeWeightMix, "some destinations have a weight and some have none", "Either every destination of a rule says its weight, or none does and all get the same share."},
	{codeLoopback, "not a loopback address", "What listens here is trusted by whoever can reach it, so it must not be reachable from other machines: 127.0.0.0/8, ::1, or a unix socket."},
	{codeAttach, "hosts and gateways do not fit", "Services are called from inside the mesh, domains arrive at gateways. A virtual service for services attaches to \"mesh\", one for domains to gateways; it may do both."},

	{codeDuplicate, "name used twice", "Two blocks of one type in one namespace have the same name. Both places are shown."},
	{codeTwoRules, "two destination rules for one service", "A service has at most one destination_rule, so that it is never a question which of them holds. Put both into one block."},
	{codeWorkloadTwice, "workload given twice on one host", "Several instances of a service on one host are told apart by the attribute instance."},
	{codeAddressTaken, "address used twice on one host", "Two things on one host would listen at the same address and port: applications, upstreams, gateways, or the host's range of 32 mesh ports."},
	{codeNoSubset, "unknown subset", "A route names a subset that no destination_rule for that service declares."},
	{codeNoGateway, "unknown gateway", "A virtual service attaches to a gateway that no gateway block declares."},
	{codeNoHost, "unknown host", "A gateway runs on a host that no host block declares. This is checked only if there are host blocks at all."},
	{codeHostAddress, "two hosts at one address", "Two hosts have the same address, and their ranges of 32 mesh ports overlap. Hosts that share an address need a mesh_port of their own each, 32 apart."},
	{codeNoPort, "unknown port", "A health check or an endpoint names a port that its service does not have."},
	{codeNoEndpoint, "service without endpoints", "A service that stands alone in the policy is one outside the mesh, known by its endpoint blocks. A workload stands in a host block. A warning."},
	{codeNeverReached, "rule never reached", "Rules are tried in order, and an earlier rule matches every request. A warning."},

	{codeFolder, "the folder cannot be read", "The policy folder does not exist, is no folder, or may not be read by this user."},
	{codeFile, "the file cannot be read", "The file exists but cannot be read: permissions, a link that leads nowhere, or something that is no regular file."},
	{codeSymlink, "a link that is not followed", "Symbolic links are followed only to files that are themselves below the policy folder."},
	{codeTooBig, "too big", "A file may have 4 MiB, a folder 64 MiB and 20000 files. Larger policies are better made with variables, locals and dynamic blocks."},
	{codeUTF8, "not UTF-8", "Policy files are text in UTF-8."},
	{codeNoPolicy, "no policy files", "The folder holds no file that ends in .hcl or .json. A warning."},
	{codeNamespaceTwice, "two namespaces for one folder", "Two namespace blocks give the same folder to two namespaces."},
}, laterCodes)
