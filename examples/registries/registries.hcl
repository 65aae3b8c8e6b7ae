# The registries of this demo; a server's own file has such blocks, too.

registry "consul" "consul" {
  address = "http://127.0.2.1:8500"
}

registry "nomad" "nomad" {
  address = "http://127.0.2.2:4646"
}

registry "etcd" "etcd" {
  endpoints = ["http://127.0.2.3:2379"]
}

registry "dns" "dns" {
  resolvers = ["127.0.2.4:5353"]

  service "ratings" {
    srv      = "_ratings._tcp.demo.example"
    protocol = "http"
  }
}
