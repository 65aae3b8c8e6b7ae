# Targets with a "##" text are listed by make help.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# Of packages: without a tag it sorts by the commit's date.
PACKAGE_VERSION ?= $(shell git describe --tags --exact-match 2>/dev/null || git log -1 --format=0.0.0~%cd.%h --date=format:%Y%m%d%H%M%S)
STATIC  := CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)'
PROTOS  := $(shell git ls-files '*.proto' 2>/dev/null)

# BENCH_SHORT=1 runs each measurement for a short time only. PKG narrows test and fuzz down.
BENCH_FLAGS ?= $(if $(BENCH_SHORT),-short)
FUZZTIME    ?= 20s
PKG         ?= ./...

.PHONY: help
help: ## List the targets
	@echo "usage: make TARGET"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/wattle, a static binary
	$(STATIC) -o bin/wattle ./cmd/wattle

.PHONY: packages
packages: build ## Make dist/*.deb and *.rpm of bin/wattle, with bill of materials and checksums
	@tools/gotool.sh nfpm cyclonedx-gomod
	@packages/build.sh "$(PACKAGE_VERSION)"

.PHONY: bin/bookinfo
bin/bookinfo:
	$(STATIC) -o $@ ./examples/bookinfo/app

.PHONY: demo
demo: envoy build bin/bookinfo ## Run examples/bookinfo on loopback addresses until Ctrl-C; needs no root
	@bin/wattle dev examples/bookinfo

.PHONY: bin/demo-dns
bin/demo-dns:
	$(STATIC) -o $@ ./examples/registries/dns

.PHONY: demo-registries
demo-registries: envoy etcd .bin/consul .bin/nomad build bin/bookinfo bin/demo-dns ## Run examples/registries: Consul, Nomad, etcd, DNS, agents and files as one catalog
	@examples/registries/run.sh

.PHONY: test
test: envoy etcd .bin/etcd-3.7 .bin/consul .bin/nomad ## Run all tests, with the race detector, real Envoys and real registries
	@all=$$(go list $(PKG)); \
	e2e=$$(grep '/test/e2e$$' <<<"$$all" || true); rest=$$(grep -v '/test/e2e$$' <<<"$$all" || true); \
	[ -z "$$rest" ] || go test -race -timeout 20m $$rest; \
	[ -z "$$e2e" ] || go test -race -timeout 20m $$e2e # alone: it sends a load that must not fail for want of a processor

.PHONY: bench
bench: build tools ## Measure the speed table and write .bench/results.json; BENCH_SHORT=1 for a quick look
	@mkdir -p .bench
	go run ./test/bench $(BENCH_FLAGS)

.PHONY: lab
lab: envoy packages ## Boot systemd hosts, install the package, and break the mesh under load; writes .lab/results.json; needs root
	@tools/labroot.sh
	@go run ./test/lab $(LAB_FLAGS)

.PHONY: lint
lint: .bin/staticcheck ## Check format, vet, staticcheck, go.mod, the import rules, the examples
	@echo gofmt -l .
	@files=$$(gofmt -l .); [ -z "$$files" ] || { echo "$$files"; echo "not formatted: run gofmt -w on them"; exit 1; }
	go vet ./...
	.bin/staticcheck ./...
	go mod tidy -diff
	go test ./internal/archtest
	go run ./cmd/wattle fmt -check examples

.PHONY: golden
golden: ## Write the golden files anew; git diff shows the effect
	go test $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs dirname | sort -u) -update

.PHONY: fuzz
fuzz: ## Fuzz every fuzz target for FUZZTIME (20s)
	@go list $(PKG) | while read -r package; do \
		go test -list '^Fuzz' "$$package" | { grep '^Fuzz' || true; } | while read -r target; do \
			echo "$$package $$target"; \
			go test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) "$$package" </dev/null; \
		done; \
	done

.PHONY: tools
tools: envoy etcd .bin/etcd-3.7 .bin/staticcheck .bin/consul .bin/nomad ## Fetch Envoy 1.40.0 and etcd, build the linter, a newer etcd, Consul and Nomad once, into the cache; link them from .bin

.PHONY: envoy
envoy:
	@tools/envoy.sh

.PHONY: etcd
etcd:
	@tools/etcd.sh

.PHONY: .bin/staticcheck
.bin/staticcheck:
	@tools/gotool.sh staticcheck

.PHONY: .bin/etcd-3.7
.bin/etcd-3.7:
	@tools/gotool.sh -C test/peers/etcd server=etcd-3.7

.PHONY: .bin/consul
.bin/consul:
	@tools/gotool.sh -C test/peers/consul consul

.PHONY: .bin/nomad
.bin/nomad: # its executor needs cgo
	@CGO_ENABLED=1 tools/gotool.sh -C test/peers/nomad nomad

.PHONY: generate
generate: ## Generate Go from the .proto files; needs protoc (Debian: protobuf-compiler)
	@tools/gotool.sh protoc-gen-go protoc-gen-go-grpc
	PATH="$(CURDIR)/.bin:$$PATH" protoc -I . --go_out=. --go_opt=paths=source_relative \
		--go-grpc_out=. --go-grpc_opt=paths=source_relative $(PROTOS)

.PHONY: clean
clean: ## Remove what was built and measured here; the cache stays
	rm -rf bin .bin .bench .lab dist
