.DEFAULT_GOAL := help

GO       ?= go
FUZZTIME ?= 20s
TESTFLAGS ?=
VULNDB   ?=

tool := $(GO) tool -modfile=internal/tools/go.mod

.PHONY: help
help: ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build the static binary bin/handover
	CGO_ENABLED=0 $(GO) build -buildvcs=auto -trimpath -ldflags '-s -w' -o bin/handover ./cmd/handover

.PHONY: demo
demo: ## See the whole line work: a removal comes in, an app hands over
	$(GO) run ./cmd/handover demo

# TESTFLAGS goes to go test: make test TESTFLAGS='-run TestRelay -v'. Watermill's suite
# runs without -race too: its test of reconnecting races with itself.
.PHONY: test
test: cc ## Test everything with -race, on a throwaway Redis and PostgreSQL
	$(GO) run ./internal/testenv/cmd/servers -install -- env CGO_ENABLED=1 $(GO) test -race -timeout 20m $(TESTFLAGS) ./...
	$(GO) test -run TestConformance $(TESTFLAGS) ./internal/stream

# The race detector needs a C compiler and the C library's headers.
.PHONY: cc
cc:
	@works() { echo '#include <stdlib.h>' | $$($(GO) env CC) -x c -fsyntax-only - 2>/dev/null; }; \
	works && exit; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && works && exit; \
	fi; \
	echo 'go test -race needs a C compiler; run as root: apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev' >&2; \
	exit 1

.PHONY: bench
bench: ## Measure, three runs on both kinds of database, into cmd/bench/RESULTS.md (an hour)
	rm -f cmd/bench/RESULTS.md
	$(GO) run ./cmd/bench -store postgres -runs 3 -results cmd/bench/RESULTS.md
	$(GO) run ./cmd/bench -store sqlite -runs 3 -results cmd/bench/RESULTS.md

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (20s)
	.ci/fuzz $(FUZZTIME)

.PHONY: generate
generate: ## Make Go of the .proto files
	$(GO) -C internal/tools run ./protogen -root ../..

.PHONY: fmt
fmt: ## Format the code
	$(tool) golangci-lint fmt

.PHONY: lint
lint: ## Run go vet and golangci-lint
	$(GO) vet ./...
	$(tool) golangci-lint run

.PHONY: tidy-check
tidy-check: ## Fail when go.mod or go.sum is not tidy
	$(GO) mod tidy -diff

# VULNDB is a directory with a copy of the database; without it the one on the network is asked.
.PHONY: vuln
vuln: ## Look for known vulnerabilities, in the database copy VULNDB=dir
	$(tool) govulncheck $(if $(VULNDB),-db 'file://$(abspath $(VULNDB))') ./...

.PHONY: deadcode
deadcode: ## List functions that no command and no test reaches
	$(tool) deadcode -test ./...

.PHONY: ci
ci: ## Run all checks
	.ci/run
