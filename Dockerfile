# One image holds all programs; docker-compose.yml picks one by its command. Static programs, not root, and poppler-utils to read PDFs.

# Built on the builder's own platform for the target's: Go cross-compiles faster than an emulator runs.
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH make build BIN=/out LDFLAGS='-s -w'

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates poppler-utils tzdata && rm -rf /var/lib/apt/lists/*
COPY LICENSE /LICENSE
COPY --from=build /out/ /usr/local/bin/
USER 65532:65532
EXPOSE 8080
# No HEALTHCHECK here: the API and the worker are healthy in different ways. `batchwright healthcheck URL` asks one.
CMD ["api"]
