package gateway

// xAI prefers its Responses API, which is OpenAI's form; Chat Completions is deprecated there and still the default here,
// because only it has a seed.
func init() {
	register(openAI{
		name: "grok", reached: reach{base: "https://api.x.ai/v1"}, path: "v1/" + openAIEndpoint,
		completionTokens: true, reasoningApart: true, responses: "v1/" + responsesEndpoint,
		// A wrong key is told with 400 and prose: {"code":"Client specified an invalid argument","error":"Incorrect API key
		// provided: ..."}. Source: xAI's page on debugging errors.
		// Used up money has the status of a rate limit or of a missing permission, and prose of its own.
		oddities: []oddity{
			{400, "incorrect api key", verdict{class: Auth}},
			{429, "used all available credits", verdict{class: Quota}},
			{403, "used all available credits", verdict{class: Quota}},
			{403, "run out of credits", verdict{class: Quota}},
		},
	})
}
