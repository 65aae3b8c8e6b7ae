# What the gateway lets in: the page, and nothing else.

virtual_service "productpage" {
  hosts    = ["*"]
  gateways = ["public"]

  http "front" {
    match {
      uri = { exact = "/" }
    }
    redirect {
      uri  = "/productpage"
      code = 302
    }
  }

  http "page" {
    match {
      uri = { exact = "/productpage" }
    }
    match {
      uri = { exact = "/sign-in" }
    }
    route {
      host = "productpage"
    }
  }
}
