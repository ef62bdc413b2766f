// Package clients runs real AI clients against the self-hosted gateway, unmodified but for the base URL.
//
// It has only tests, behind the build tag "clients", because they install the clients from npm and the Go module proxy:
// make test-clients runs them. Each client runs as a process of its own. Between it and the gateway sits a tap on the
// wire, behind the gateway a stand-in for the providers, so that what the client sent, what a provider got, what it
// answered, what came back, and what the gateway's log says can be held against each other, byte for byte.
//
// The clients: the OpenAI SDKs for Node and for Go, Anthropic's SDK for Node, the Vercel AI SDK with Cloudflare's
// ai-gateway-provider, and promptfoo, with its own providers of OpenAI and Anthropic and with that of Cloudflare's gateway.
// Where a client has Cloudflare's address fixed in its code, node/redirect.mjs replaces the address as requests leave.
package clients
