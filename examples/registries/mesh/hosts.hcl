# The hosts with agents. The edge runs the gateway, h2 what registers itself.

locals {
  bookinfo = "../../../bin/bookinfo" # the demo's application, from this folder
}

host "edge" {
  address = "127.0.0.10"
}

host "h1" {
  address = "127.0.0.11"

  service "productpage" {
    port  = 9080
    local = "127.0.1.1:9080"
    meta  = { version = "v1" }
    command = [
      local.bookinfo, "-service", "productpage", "-version", "v1", "-host", "h1", "-listen", "127.0.1.1:9080",
      "-upstream", "details=127.0.1.1:9081", "-upstream", "reviews=127.0.1.1:9082",
    ]

    check "http" {
      path     = "/healthz"
      interval = "1s"
    }
    upstream "details" { bind = "127.0.1.1:9081" }
    upstream "reviews" { bind = "127.0.1.1:9082" }
  }
}

host "h2" {
  address = "127.0.0.12"
}

# The instances of reviews are registered elsewhere and take their calls in plaintext; what they call goes through
# the mesh, as this workload.
host "h3" {
  address = "127.0.0.13"

  service "reviews-apps" {
    port  = 9079 # a service has one; nobody calls it
    local = "127.0.1.3:9079"
    upstream "ratings" { bind = "127.0.1.3:9081" }
  }
}
