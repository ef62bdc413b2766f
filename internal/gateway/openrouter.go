package gateway

// OpenRouter passes a request on to one of many hosts. A host's failure may come with status 200, since OpenRouter
// answers before the host has.
func init() {
	register(openAI{
		name: "openrouter", reached: reach{base: "https://openrouter.ai/api/v1"}, path: "v1/" + openAIEndpoint,
		requireParameters: true,
		oddities:          append([]oddity{{403, `"flagged_input"`, verdict{class: ContentFiltered}}}, tooLong...), // moderation is told by its metadata
	})
}
