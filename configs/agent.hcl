# The configuration of wattle agent. Every line that begins with "#" and an attribute shows the default, unless
# it says otherwise.

# The servers, tried in order.
server = ["127.0.0.1:7501"]

# The host's name. By default that of the token or certificate.
# node = "h1"

# Where the agent keeps keys, certificates and registrations. Only its user may read it.
# state_dir = "/var/lib/wattle/agent"

# Where its sockets are, agent.sock of wattle service among them.
# run_dir = "/run/wattle"

# The folder of workloads that are registered by files.
# services_dir = "/etc/wattle/services.d"

# The folder of files that say what this host is, by lines NAME = VALUE. They are labels of its endpoints, with "host."
# before the name, like those that the agent finds out itself: host.os.name, host.kernel.version, host.cpu.arch, ...
# facts_dir = "/etc/wattle/facts.d"

# The address of this host, as others reach it; by default as the server sees it.
# address = "192.0.2.10"

# The local address to connect from; by default the system's choice.
# source_address = "192.0.2.10"

# The join token for the first start, or a file that holds it.
# token_file = "/etc/wattle/token"

# The Envoy binary: a path, or a name that is looked up in PATH.
# envoy = "envoy"

# Worker threads of each Envoy; by default 2, or as many as there are processors if fewer.
# concurrency = 2

# How long an Envoy that stops or is replaced waits for the connections and requests that it has.
# drain_time = "20s"

# Whether the Envoys end when the agent is ended in good order. Otherwise they live on, and the next agent finds them.
# stop_proxies = false

# Whether connections are refused that go round a workload's identity: of other users or units to where it calls and to its
# application's ports, and of other hosts to these. Where the agent may not use nftables, which it says, there is no guard.
# guard = true

# Users of this host whose processes may connect to the applications' ports all the same, such as a monitoring agent's.
# guard_allow = ["consul"]

# Which services the user of a systemd unit may register through agent.sock. Without a block that is the service of the
# namespace default that has the unit's name: of web.service it is web. "web@.service" is all instances of a template.
# unit "web.service" {
#   services = ["shop/web", "shop/web-admin"]
# }

# debug, info, warn or error; text or json.
# log_level  = "info"
# log_format = "text"
