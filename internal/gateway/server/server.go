// Package server is the self-hosted AI gateway over HTTP: it serves what Cloudflare's does, from this process.
package server
