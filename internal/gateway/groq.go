package gateway

func init() {
	register(openAI{
		name: "groq", reached: reach{base: "https://api.groq.com/openai/v1"},
		completionTokens: true,
		// Source: Groq's page on error codes.
		oddities: []oddity{
			{422, "", verdict{class: Server, says: "the provider could not follow the request or the model's own output"}}, // it asks for a retry
			{424, "", verdict{class: Unknown, says: "a remote tool that the request names failed"}},
		},
	})
}
