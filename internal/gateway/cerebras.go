package gateway

func init() {
	register(openAI{
		name: "cerebras", reached: reach{base: "https://api.cerebras.ai/v1"}, path: "v1/" + openAIEndpoint,
		completionTokens: true,
	})
}
