# One image holds all programs; docker-compose.yml picks one by its command. Static, no shell, not root.

# Built on the builder's own platform for the target's: Go cross-compiles faster than an emulator runs.
FROM --platform=$BUILDPLATFORM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG TARGETOS TARGETARCH
RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build \
    GOOS=$TARGETOS GOARCH=$TARGETARCH make build BIN=/out LDFLAGS='-s -w'

# CA certificates, time zones and the account 65532, nothing else.
FROM gcr.io/distroless/static-debian12:nonroot
COPY LICENSE /LICENSE
COPY --from=build /out/ /usr/local/bin/
USER nonroot:nonroot
EXPOSE 8080
# No HEALTHCHECK here: the API and the worker are healthy in different ways. `batchwright healthcheck URL` asks one.
CMD ["api"]
