package gateway

// Hugging Face's router takes models as ORG/MODEL or ORG/MODEL:HOST. What of a seed or a schema a host understands is
// the host's. Cloudflare's path for this slug leads to an older API, so that a chain is best run directly.
func init() {
	register(openAI{name: "huggingface", reached: reach{base: "https://router.huggingface.co/v1"}})
}
