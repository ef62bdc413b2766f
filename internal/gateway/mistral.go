package gateway

func init() {
	register(openAI{
		name: "mistral", reached: reach{base: "https://api.mistral.ai/v1"}, path: "v1/" + openAIEndpoint,
		seed: seedRandom, cacheKey: true,
		usageUnasked: true, // in the last chunk; fields that it doesn't know are an error
	})
}
