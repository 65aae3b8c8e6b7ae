mesh {
  domain       = "mesh"
  trust_domain = "bookinfo.example"
  mtls         = "strict"
}

gateway "public" {
  run_on = ["edge"]

  server "http" {
    bind = "127.0.0.1"
    port = 8080
  }
}

virtual_service "productpage" {
  hosts    = ["*"]
  gateways = ["public"]

  http "page" {
    route { host = "productpage" }
  }
}
