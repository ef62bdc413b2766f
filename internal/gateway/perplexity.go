package gateway

// Perplexity's models search the web for every answer, so two answers to one question differ, and a fee by request
// comes on top of the tokens: Usage.Cost holds the whole.
func init() {
	register(openAI{
		name: "perplexity-ai", reached: reach{base: "https://api.perplexity.ai"},
		seed: seedNone, schema: schemaBare,
		usageUnasked:   true, // in every chunk
		reasoningApart: true,
	})
}
