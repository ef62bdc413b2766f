package gateway

// Perplexity's models search the web for every answer, so two answers to one question differ, and a fee by request
// comes on top of the tokens: Usage.Cost holds the whole.
//
// Two APIs share the slug. The models sonar and sonar-... are of Sonar Chat Completions, which clients report as ended
// on 2026-09-27 while Perplexity's own page calls it supported; they are sent there until that is settled. Models with a
// vendor in their name, such as perplexity/sonar, are of the Agent API, in the form of Responses. It searches only with
// a preset or a tool, which a body in its own form can ask for. Source: Perplexity's pages on OpenAI compatibility and
// on migrating from Sonar.
func init() {
	register(openAI{
		name: "perplexity-ai", reached: reach{base: "https://api.perplexity.ai"},
		seed: seedNone, schema: schemaBare,
		responses: "v1/" + responsesEndpoint, plainResponses: true,
		usageUnasked: true, // in every chunk
	})
}
