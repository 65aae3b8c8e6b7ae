mesh {
  trust_domain = "capture.example"
}
