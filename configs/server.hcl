# The configuration of wattle server. Every line that begins with "#" and an attribute shows the default.

# Where the server keeps its keys, tokens and revisions. Only its user may read it.
# state_dir = "/var/lib/wattle/server"

# The folder of policy files; it is watched.
# policy = "/etc/wattle/policy"

# Where the HTTP API listens: a loopback address, or a socket such as "unix:/run/wattle/http.sock".
# http = "127.0.0.1:7500"

# Where agents connect, over mTLS.
# agents = "0.0.0.0:7501"

# DNS names and addresses that agents use for this server. Its certificate is made for them, and for localhost.
# names = []

# How long certificates of workloads and gateways live; they are renewed at a third of it. When no server can be reached for
# the rest, nobody calls them any more until one can be.
# workload_life = "24h"

# debug, info, warn or error; text or json.
# log_level  = "info"
# log_format = "text"

# A registry that knows services: here a watched folder of host and service blocks.
# registry "static" "files" {
#   path         = "/etc/wattle/services"
#   sync_timeout = "10s"
#
#   # Many endpoints that disappear at once, though they live, are served on for a while.
#   # hold {
#   #   share         = 50
#   #   window        = "30s"
#   #   after         = "10m"
#   #   min_endpoints = 4
#   # }
# }
