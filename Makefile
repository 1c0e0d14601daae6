# Run `make` alone for the list of targets. CI runs the same ones (.ci/run).

PROGRAMS := tunnel-acceptor mcp-frontend
MODULES  := $(shell sed -n 's|^[[:space:]]*\./||p' go.work)
PACKAGES := $(MODULES:%=./%/...)
SCRIPTS  := .ci compose scripts

BIN   ?= bin
TOOLS := bin/tools
STAMP  = $(TOOLS)/stamp-buf-$(BUF_VERSION)

# The images are stamped with the same variables (compose/Dockerfile).
VERSION  ?= $(shell git describe --tags --match 'v[0-9]*' --always --dirty 2>/dev/null || echo dev)
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

BUF_VERSION := v1.75.0
FUZZTIME    ?= 30s

.DEFAULT_GOAL := help
.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: $(PROGRAMS:%=$(BIN)/%) ## build both programs into bin/ (static, stamped with the version)

# Each module alone, without cgo and without the machine's paths: byte for byte what the image holds.
.PHONY: FORCE
$(PROGRAMS:%=$(BIN)/%): $(BIN)/%: FORCE
	@mkdir -p $(BIN)
	cd $* && GOWORK=off CGO_ENABLED=0 go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X main.version=$(VERSION)" -o $(abspath $@) ./cmd/$*

.PHONY: setup
setup: ## install what the tests need from the system (OpenSSH), if it is missing
	@scripts/setup

# -count=1: the whole-system tests run the programs of bin/, which Go's test cache does not look at.
.PHONY: test
test: setup build ## run every test
	E2E_BIN=$(abspath $(BIN)) go test -count=1 $(PACKAGES)

.PHONY: e2e
e2e: setup build ## run the whole-system tests only: both programs, real OpenSSH, an independent MCP client
	E2E_BIN=$(abspath $(BIN)) go test -count=1 -v ./scripts/e2e/...

.PHONY: deploy-test
deploy-test: setup ## check the Kubernetes manifests and systemd units, and run the pair as both would (needs root or sudo)
	DEPLOY_TEST_ROOT=required go test -count=1 -v ./scripts/deploy/...

.PHONY: inspector
inspector: setup build ## check the answers to the MCP inspector's command line (from npm), through stdio and attach
	@BIN=$(abspath $(BIN)) scripts/inspector.sh

.PHONY: conformance
conformance: build ## run the official MCP conformance suite (from npm) on our transport and print its table
	@BIN=$(abspath $(BIN)) scripts/conformance.sh

.PHONY: demo
demo: build ## show the main job end to end on this machine; needs nothing but Go
	@cd scripts/e2e && go run ./demo -bin $(abspath $(BIN))

.PHONY: check
check: lint race standalone ## lint, race tests of all modules, each module alone

.PHONY: lint
lint: $(STAMP) ## lint Go, protobuf and shell, and check their formatting
	$(TOOLS)/golangci-lint run $(PACKAGES)
	@out=$$($(TOOLS)/gofumpt -l $(MODULES)) && test -z "$$out" || { echo "not formatted (run gofumpt -w):" $$out; exit 1; }
	cd proto && $(abspath $(TOOLS))/buf lint
	@command -v shellcheck >/dev/null || { echo "shellcheck is missing: apt-get install shellcheck"; exit 1; }
	shellcheck $$($(TOOLS)/shfmt -f $(SCRIPTS))
	$(TOOLS)/shfmt -d $(SCRIPTS)

.PHONY: race
race: setup ## run every test under the race detector, the programs themselves too
	go build -race -o bin/race/ $(PROGRAMS:%=./%/cmd/...)
	GORACE=halt_on_error=1 E2E_BIN=$(abspath bin/race) go test -count=1 -race $(PACKAGES)

.PHONY: standalone
standalone: ## check each module alone, as the images and `go install` see it
	@set -e; for m in $(MODULES); do echo "$$m: go mod tidy -diff, go vet, go build"; \
		(cd $$m && export GOWORK=off && go mod tidy -diff && go vet ./... && go build -o /dev/null ./...); done

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME (30s)
	@scripts/fuzz.sh $(FUZZTIME) $(MODULES)

.PHONY: soak
soak: setup build ## run the long tests: 10,000 cycles and 100,000 refusals under -race, 1,000 devices, 800 cut connections, 3 GB of output, a 1 GiB upload cut and resumed (6 minutes)
	GATEWAY_SOAK=1 go test -race -count=1 -run 'TestReconnectCycles|TestRejectedChannelsLeaveNothing' ./tunnel-acceptor/internal/forwarding
	GATEWAY_SOAK=1 go test -count=1 -v -run TestFleet ./tunnel-acceptor/cmd/tunnel-acceptor
	GATEWAY_SOAK=1 E2E_BIN=$(abspath $(BIN)) go test -count=1 -v -run 'TestCutAnywhere|TestSilentLineIsFound|TestMemoryOfOutput|TestSFTPLargeTransfer' ./scripts/e2e

.PHONY: bench
bench: setup build ## run the benchmarks
	go test -run '^$$' -bench . -benchmem $(PACKAGES)

.PHONY: generate
generate: $(STAMP) ## regenerate proto/tunnel/v1/*.pb.go
	cd proto && GOWORK=off $(abspath $(TOOLS))/buf generate

.PHONY: images
images: ## build both container images and print their sizes
	GATEWAY_VERSION=$(VERSION) GATEWAY_REVISION=$(REVISION) docker compose -f compose/compose.yaml build
	@docker image ls --filter 'reference=mcp-ssh-gateway/*:$(VERSION)'

.PHONY: release-test
release-test: ## make a release in a scratch repository, and go install both programs from its tags
	@scripts/release-test.sh

.PHONY: compose-test
compose-test: ## start the pair with docker compose and check what runs (needs a Docker engine, or root to start one)
	@scripts/compose-test.sh

.PHONY: reproducible
reproducible: ## build the last commit twice, in two places with two build caches, and compare the programs
	@scripts/reproducible.sh

.PHONY: tools
tools: $(STAMP) ## build the pinned lint and generator tools into bin/tools

# buf cannot share a module with the linters, so it is installed by version.
$(STAMP): scripts/tools/go.mod scripts/tools/go.sum
	@mkdir -p $(TOOLS)
	cd scripts/tools && GOWORK=off GOBIN=$(abspath $(TOOLS)) go install tool
	GOWORK=off GOBIN=$(abspath $(TOOLS)) go install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)
	@touch $@

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
