# Calls by name, of its own namespace: http://reviews.mesh:9080/ or http://reviews:9080/.
host "h1" {
  address = "10.0.0.1"
  service "shop" {
    port = 8080
    unit = "shop.service"
    capture "loopback" {}
  }

  # Calls what it always called: what it sends to other hosts arrives at its proxy, which knows services by the Host of requests.
  service "batch" {
    port = 8081
    unit = "batch.service"
    capture "transparent" {
      services          = ["reviews", "db"]
      exclude_addresses = ["10.9.0.0/16"]
      exclude_ports     = [22]
    }
  }
}

host "h2" {
  address = "10.0.0.2"
  service "reviews" {
    port = 9080
    unit = "reviews.service"
  }
  service "db" {
    port     = 5432
    protocol = "tcp"
    unit     = "postgresql.service"
  }
}
