package configs

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"

	"github.com/zclconf/go-cty/cty"
)

var proxyBlock = newBlock(block[ProxyResources]{
	doc: "What one Envoy may use of its host, by systemd's own names. A change holds at once, without a restart. What is not said is as its unit says (`systemctl edit wattle-envoy@NAME`); all proxies of a host together are bounded by `wattle-proxies.slice`. The number of open files is not here: it is fixed when a process starts, and the unit gives a million.",
	attrs: []attr[ProxyResources]{
		field("memory_high", memory(64<<20), func(r *ProxyResources) *uint64 { return &r.MemoryHigh }, "Above this it is slowed down and its memory is taken back where that can be (`MemoryHigh=`). It is not killed.").orText("the unit's"),
		field("cpu_weight", whole[uint64](1, 10000), func(r *ProxyResources) *uint64 { return &r.CPUWeight }, "Its share of the processors when they are short, against 100 of others in its slice (`CPUWeight=`).").orText("the unit's"),
		field("tasks_max", whole[uint64](16, 1<<22), func(r *ProxyResources) *uint64 { return &r.TasksMax }, "How many threads it may have (`TasksMax=`). Envoy needs about four, and one for each of the agent's `concurrency`; twice that during a reload.").orText("the unit's"),
	},
	origin: func(r *ProxyResources) *string { return &r.Origin },
})

var release = regexp.MustCompile(`^[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}$`)

var envoyBlock = newBlock(block[Envoy]{
	doc: "Which Envoy runs: in `mesh` on all hosts with systemd, in `host` on one. An agent looks at the binary first: if it is not there, does not run on the host, or is another version, the Envoy that runs stays and the agent's log says why. A good one takes over by hot restart, without losing a request; one that does not come to serve is given up, and the one before serves on. To bring a mesh there in waves, say it in the `host` blocks of a wave first, and in `mesh` last.",
	attrs: []attr[Envoy]{
		field("version", checked("version", "\"1.40.0\"", func(d *decoder, s string) bool {
			if !release.MatchString(s) {
				d.fail(codeName, fmt.Sprintf("version cannot be %q", short(s)), "Write a release of Envoy with its three numbers: \"1.40.0\".")
				return false
			}
			return true
		}), func(e *Envoy) *string { return &e.Version }, "The release that it must be.").must(),
		field("path", checked("path", "absolute", func(d *decoder, s string) bool {
			if !filepath.IsAbs(s) || filepath.Clean(s) != s {
				d.fail(codePath, fmt.Sprintf("path is not absolute: %q", short(s)), "Write the whole path that the binary has on the hosts: \"/opt/envoy-1.40.0/envoy\".")
				return false
			}
			return true
		}), func(e *Envoy) *string { return &e.Path }, "Where it is on the hosts.").orText("what the agent's file says"),
	},
	origin: func(e *Envoy) *string { return &e.Origin },
})

var bytesPattern = regexp.MustCompile(`^([1-9][0-9]{0,15})(K|M|G|T)B?$`)

// memory is a number of bytes, as systemd writes them: units are powers of 1024.
func memory(least uint64) kind[uint64] {
	hint := fmt.Sprintf("\"%dMB\" at least; K, M, G, T are powers of 1024", least>>20)
	return kind[uint64]{"bytes", hint, func(d *decoder, v cty.Value) (uint64, bool) {
		if v.Type() != cty.String || v.IsNull() {
			d.wrongType(v, "a string with a number of bytes, \"512MB\"")
			return 0, false
		}
		if m := bytesPattern.FindStringSubmatch(v.AsString()); m != nil {
			n, err := strconv.ParseUint(m[1], 10, 64)
			shift := map[string]uint{"K": 10, "M": 20, "G": 30, "T": 40}[m[2]]
			if err == nil && n<<shift>>shift == n && n<<shift >= least {
				return n << shift, true
			}
		}
		d.fail(codeRange, fmt.Sprintf("%s cannot be %q", d.what(), short(v.AsString())), fmt.Sprintf("Write a whole number and a unit: %s.", hint))
		return 0, false
	}}
}
