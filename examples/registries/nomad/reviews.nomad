variable "app" { type = string }

job "reviews" {
  datacenters = ["dc1"]

  group "v2" {
    shutdown_delay = "2s" # deregister first, end later

    service {
      name     = "reviews"
      provider = "nomad"
      address  = "127.0.3.2"
      port     = "9080"
      tags     = ["version=v2"]
    }

    task "app" {
      driver = "raw_exec"

      config {
        command = var.app
        args = ["-service", "reviews", "-version", "v2", "-host", "nomad", "-listen", "127.0.3.2:9080",
        "-upstream", "ratings=127.0.1.3:9081"]
      }
      resources {
        cpu    = 10
        memory = 32
      }
    }
  }
}
