# What holds for the whole mesh, and where requests from outside come in.

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
