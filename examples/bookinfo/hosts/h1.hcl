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
