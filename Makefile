# The targets people use; `make` alone builds bin/skiff.
DATA ?= /var/lib/skiff
export PATH := $(PATH):/usr/local/go/bin
# Alike for the binary and all tests, so that what they share is compiled once.
export CGO_ENABLED := 0
export GOFLAGS := $(GOFLAGS) -trimpath
LDFLAGS := -s -w -X skiff.dev/skiff/internal/version.Commit=$(shell git rev-parse --short HEAD 2>/dev/null)
# The version that kubectl inside says it is.
LDFLAGS += $(foreach v,gitVersion=v1.37.1 gitMajor=1 gitMinor=37,-X k8s.io/component-base/version.$(v))

.PHONY: build carried deps up down test simulation e2e e2e-v2 bench fmt images stock-up stock-down conformance mixed bench-tools bench-compare

build: carried
	go build -ldflags '$(LDFLAGS)' -o bin/skiff ./cmd/skiff
	@# The kernel keeps what the linker wrote in pages of 2 MiB, and has all of one resident where a byte of it is needed.
	@cp bin/skiff bin/skiff.copy && mv bin/skiff.copy bin/skiff

# What skiff carries inside: containerd, runc, their shim, pause, the CNI plugin.
carried: deps
	sh internal/runtime/carried/build.sh

deps:
	sh hack/deps.sh

up: build
	sh examples/guestbook/up.sh $(DATA)

down:
	sh examples/guestbook/down.sh $(DATA)

test: build
	go vet ./...
	go test -timeout 15m ./cmd/... ./internal/... ./bench/... ./examples/...
	SKIFF_BINARY=$(CURDIR)/bin/skiff go test -p 1 -timeout 15m ./test/... # the built binary, one by one

simulation:
	SKIFF_SIMULATION=large go test -count=1 -timeout 60m -v -run TestThousandNodes ./internal/testing/cluster

e2e: build
	go test -p 1 -count=1 -timeout 30m -tags e2e ./test/...

# In a virtual machine with cgroups of version 2, whatever this machine has.
e2e-v2: build
	sh test/e2e/v2/run.sh

bench: build
	go run ./bench/report -binary bin/skiff -o docs/performance.md

# Upstream's suite and parts as a yardstick, from the module in test/conformance (docs/testing.md). Images come without a
# registry: test/conformance/images/README.md.
export TARGET FOCUS SKIP PARALLEL KEEP LABELS CLUSTER COMPONENTS ROUNDS PARTS RESULTS QUICK
bench-tools:
	go build -o bin/bench/ ./bench/...
bench-compare: build bench-tools
mixed: build
conformance: $(if $(filter stock,$(TARGET)),,build)
images stock-up stock-down conformance mixed bench-compare: deps
	cd test/conformance && go build -o $(CURDIR)/bin/yardstick ./cmd/yardstick && exec $(CURDIR)/bin/yardstick $@

fmt:
	gofmt -w cmd internal bench test
