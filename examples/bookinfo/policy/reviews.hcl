virtual_service "reviews" {
  hosts = ["reviews"]

  http "testers" {
    match {
      headers = { end-user = { exact = "jason" } }
    }
    route {
      host   = "reviews"
      subset = "v2"
    }
  }

  http "everyone" {
    timeout = "2s"
    retries {
      attempts        = 2
      per_try_timeout = "500ms"
      retry_on        = ["5xx", "reset"]
    }
    route {
      host   = "reviews"
      subset = "v1"
      weight = 90
    }
    route {
      host   = "reviews"
      subset = "v3"
      weight = 10
    }
  }
}

destination_rule "reviews" {
  host = "reviews"
  subset "v1" { labels = { version = "v1" } }
  subset "v2" { labels = { version = "v2" } }
  subset "v3" { labels = { version = "v3" } }

  load_balancer { simple = "least_request" }
  outlier_detection {
    consecutive_5xx_errors = 5
    base_ejection_time     = "30s"
  }
}
