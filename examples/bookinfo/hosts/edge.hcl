# The hosts of this example are addresses of the loopback network: host N is 127.0.0.1N for the others, and
# 127.0.1.N stands for what would be its own 127.0.0.1. The edge runs the gateway and no service.

locals {
  bookinfo = "../../bin/bookinfo" # the demo's application, from this folder
}

host "edge" {
  address = "127.0.0.10"
}
