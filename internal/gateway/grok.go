package gateway

func init() {
	register(openAI{
		name: "grok", reached: reach{base: "https://api.x.ai/v1"}, path: "v1/" + openAIEndpoint,
		completionTokens: true, reasoningApart: true,
		// A wrong key is told with 400 and prose: {"code":"Client specified an invalid argument","error":"Incorrect API key
		// provided: ..."}. Source: xAI's page on debugging errors.
		oddities: []oddity{{400, "incorrect api key", verdict{class: Auth}}},
	})
}
