# What Consul and Nomad cannot say: the protocol.

service_defaults "reviews" {
  protocol = "http"
}
