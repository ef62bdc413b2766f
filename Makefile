# Batchwright. `make` alone lists the targets.
#
# Needs Go 1.26, make and git. The tools of `make lint` and `make generate` are pinned in tools/go.mod and built by Go on
# first use; golangci-lint takes two to three minutes, once a machine.

SHELL      := /bin/sh
MAKEFLAGS  += --no-print-directory

BIN      ?= bin
COMMANDS := $(notdir $(patsubst %/,%,$(dir $(wildcard cmd/batchwright/*.go cmd/api/*.go cmd/worker/*.go cmd/gateway/*.go))))
COMMANDS := $(sort $(COMMANDS))
# Only the folders that hold our Go: a walk from the root would enter the private Postgres in .run/.
GO_DIRS  := $(wildcard cmd internal migrations examples)

TOOL := go tool -modfile=tools/go.mod
# The generator runs in the contract's folder, where its configuration's paths point from.
OAPI := cd internal/api && go tool -modfile=../../tools/go.mod oapi-codegen -config

# What `make test` and `make bench` take from the command line: make test PKG=./internal/store ARGS='-run Claim -v'
PKG  ?= ./...
ARGS ?=

.PHONY: help build demo demo-nightly dev run migrate test test-clients test-documents bench bench-gateway bench-reports bench-content bench-forecast chaos generate lint fmt-check vet golangci fresh vuln docker-config clean

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# LDFLAGS='-s -w' leaves debug symbols out, as the image does. VCS stamping is off, because it fails in a checkout
# that belongs to another user; `batchwright version` therefore knows no commit.
build: ## Build the programs, static, into bin/
	@mkdir -p $(BIN)
	CGO_ENABLED=0 go build -trimpath -buildvcs=false $(if $(LDFLAGS),-ldflags '$(LDFLAGS)') -o $(BIN)/ $(addprefix ./cmd/,$(COMMANDS))

demo: build ## Start everything, run two batches twice, show results, cache hits and costs
	@$(BIN)/batchwright demo $(ARGS)

demo-nightly: build ## Run 2,000 documents on four nights: edits, an outage, another template, and what each cost
	@$(BIN)/batchwright demo nightly $(ARGS)

dev: build ## Start everything and stay up; prints the URLs and an API key
	@$(BIN)/batchwright dev $(ARGS)

migrate: build ## Migrate the database at DATABASE_URL
	@$(BIN)/batchwright migrate $(ARGS)

# Whichever of the two stops first takes the other with it, so that half a system never looks like a whole one.
run: build ## API and worker against DATABASE_URL and REDIS_URL, migrated before
	@: "$${DATABASE_URL:?set it, for example postgres://user:password@localhost:5432/batchwright}"; \
	: "$${REDIS_URL:?set it, for example redis://localhost:6379/0}"; \
	stop() { trap '' INT TERM; kill -TERM $$api $$worker 2>/dev/null; wait $$api; a=$$?; wait $$worker; w=$$?; }; \
	$(BIN)/batchwright migrate || exit; \
	api= worker=; \
	trap 'stop; exit 0' INT TERM; \
	$(BIN)/worker & worker=$$!; \
	$(BIN)/api & api=$$!; \
	while kill -0 $$api 2>/dev/null && kill -0 $$worker 2>/dev/null; do sleep 1; done; \
	stop; echo "run: the api ended with $$a, the worker with $$w" >&2; exit 1

# The race detector needs cgo, so a C compiler and its headers. Without them the tests run without it. -ldflags=-w leaves out what only debuggers
# read; without it, linking the tests takes half as long again.
test: build ## Run the tests against a real Postgres and Redis, with -race if there is a C compiler
	@race=-race; \
	if [ "$$(go env CGO_ENABLED)" != 1 ] || ! printf '#include <stdlib.h>\n' | $$(go env CC) -E - >/dev/null 2>&1; then \
		race=; echo "test: no C compiler, so without -race (Debian: apt-get install gcc libc6-dev)"; \
	fi; \
	$(BIN)/batchwright services -- go test $$race -ldflags=-w -timeout 9m $(ARGS) $(PKG)

# Not part of `make test`, because it needs npm and its registry: the clients are installed once into .run/clients.
test-clients: build ## Run real AI clients (OpenAI, Anthropic, Vercel AI SDK, promptfoo) against the gateway; needs npm
	@command -v npm >/dev/null 2>&1 || { echo "test-clients: npm is missing; install Node.js with npm (Debian: apt-get install nodejs npm)"; exit 1; }; \
	$(BIN)/batchwright services -- go test -tags clients -count=1 -timeout 15m $(ARGS) ./internal/gateway/conformance/clients

# Not part of `make test`, because it needs Debian's archive: the packages are fetched once into .run/documents. Without the archive it says so
# and ends well, unless DOCUMENTS=required.
test-documents: ## Read real documents of all formats (from Debian packages) and compare with known digests; needs apt
	@sh internal/extract/testdata/fetch.sh .run/documents || { code=$$?; \
		if [ "$$code" = 3 ] && [ "$(DOCUMENTS)" != required ]; then echo "test-documents: skipped, the documents can't be fetched"; exit 0; fi; exit $$code; }; \
	[ ! -e .run/documents/complete ] || go test -count=1 -run TestRealDocuments $(ARGS) ./internal/extract -documents "$$PWD/.run/documents/files"

bench: ## Measure throughput beside its ceilings
	go run ./cmd/bench $(ARGS)

bench-gateway: ## Measure the gateway's server and engine beside a bare proxy and client
	go run ./cmd/bench -suite gateway $(ARGS)

bench-forecast: ## Hold the forecasts of 200 seeded batches a round against what they cost
	go run ./cmd/bench -suite forecast $(ARGS)

bench-reports: ## Measure reports and exports over a million finished jobs
	go run ./cmd/bench -suite reports $(ARGS)

bench-content: ## Measure what an edit of a long document costs beside its first run and fixed-size chunks
	go run ./cmd/bench -suite content $(ARGS)

# The scenarios that have a name run once each, before the random ones. ARGS='-scenario NAME' runs one, ARGS='-first 17' begins at another seed.
SEEDS ?= 10

chaos: ## Run everything under faults (SEEDS=10 random runs) and check that nothing is lost or paid for twice
	@go run ./cmd/chaos -seeds $(SEEDS) $(ARGS)

generate: ## Generate the API's server code from its OpenAPI contract
	$(OAPI) oapi-codegen.yaml openapi.yaml

lint: fmt-check vet golangci fresh vuln ## Format, vet, golangci-lint, generated code, known vulnerabilities

fmt-check:
	@files=$$(gofmt -l $(GO_DIRS)); \
	if [ -n "$$files" ]; then echo "lint: not formatted; run gofmt -w on:"; echo "$$files"; exit 1; fi

vet:
	go vet ./...

golangci:
	$(TOOL) golangci-lint run

# The configuration's output wins over -o, so the copy has its own configuration.
fresh:
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	sed "s|^output: .*|output: $$tmp/api.gen.go|" internal/api/oapi-codegen.yaml >"$$tmp/oapi-codegen.yaml" && \
	( $(OAPI) "$$tmp/oapi-codegen.yaml" openapi.yaml ) && \
	if ! diff -u internal/api/api.gen.go "$$tmp/api.gen.go" >"$$tmp/diff"; then \
		echo "lint: internal/api/api.gen.go is stale; run make generate"; head -n 40 "$$tmp/diff"; exit 1; \
	fi

# A machine without the vulnerability database is told so; a vulnerability in code that we call fails.
vuln:
	@out=$$($(TOOL) govulncheck ./... 2>&1) && { echo "lint: govulncheck found nothing"; exit 0; }; \
	case $$out in \
	*"fetching vulnerabilities:"*) echo "lint: govulncheck skipped, its database (vuln.go.dev) can't be reached" ;; \
	*) echo "$$out"; exit 1 ;; \
	esac

docker-config: ## Check docker-compose.yml (needs Docker's compose, no engine)
	@if docker compose version >/dev/null 2>&1; then docker compose config --quiet; \
	elif command -v docker-compose >/dev/null 2>&1; then docker-compose config --quiet; \
	else echo "docker-config: no docker compose on this machine"; exit 1; fi
	@echo "docker-config: docker-compose.yml is valid"

clean: ## Remove what was built and the private services' data
	rm -rf $(BIN) .run
