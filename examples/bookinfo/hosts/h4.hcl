# Two versions of one service on one host. Each calls ratings at an address of its own.

host "h4" {
  address = "127.0.0.14"

  service "reviews" {
    instance = "v2"
    port     = 9080
    local    = "127.0.1.4:9080"
    meta     = { version = "v2" }
    command = [
      local.bookinfo, "-service", "reviews", "-version", "v2", "-host", "h4", "-listen", "127.0.1.4:9080",
      "-timeout", "1s", "-upstream", "ratings=127.0.1.4:9081",
    ]

    check "http" {
      path     = "/healthz"
      interval = "1s"
    }
    upstream "ratings" { bind = "127.0.1.4:9081" }
  }

  service "reviews" {
    instance = "v3"
    port     = 9080
    local    = "127.0.1.4:9090"
    meta     = { version = "v3" }
    command = [
      local.bookinfo, "-service", "reviews", "-version", "v3", "-host", "h4", "-listen", "127.0.1.4:9090",
      "-timeout", "1s", "-upstream", "ratings=127.0.1.4:9091",
    ]

    check "http" {
      path     = "/healthz"
      interval = "1s"
    }
    upstream "ratings" { bind = "127.0.1.4:9091" }
  }
}
