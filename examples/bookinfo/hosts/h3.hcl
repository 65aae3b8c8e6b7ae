# Two instances of one service, of one version, on one host.

host "h3" {
  address = "127.0.0.13"

  service "reviews" {
    instance = "a"
    port     = 9080
    local    = "127.0.1.3:9080"
    meta     = { version = "v1" }
    command  = [local.bookinfo, "-service", "reviews", "-version", "v1", "-host", "h3", "-listen", "127.0.1.3:9080"]

    check "http" {
      path     = "/healthz"
      interval = "1s"
    }
  }

  service "reviews" {
    instance = "b"
    port     = 9080
    local    = "127.0.1.3:9090"
    meta     = { version = "v1" }
    command  = [local.bookinfo, "-service", "reviews", "-version", "v1", "-host", "h3", "-listen", "127.0.1.3:9090"]

    check "http" {
      path     = "/healthz"
      interval = "1s"
    }
  }
}
