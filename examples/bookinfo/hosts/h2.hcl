host "h2" {
  address = "127.0.0.12"

  service "details" {
    port    = 9080
    local   = "127.0.1.2:9080"
    meta    = { version = "v1" }
    command = [local.bookinfo, "-service", "details", "-version", "v1", "-host", "h2", "-listen", "127.0.1.2:9080"]

    check "http" {
      path     = "/healthz"
      interval = "1s"
    }
  }

  service "ratings" {
    port    = 9080
    local   = "127.0.1.2:9090"
    meta    = { version = "v1" }
    command = [local.bookinfo, "-service", "ratings", "-version", "v1", "-host", "h2", "-listen", "127.0.1.2:9090"]

    check "http" {
      path     = "/healthz"
      interval = "1s"
    }
  }
}
