package gateway

// DeepSeek's models think unless told not to; thinking is billed as output, and a temperature is ignored meanwhile. Its
// JSON mode takes no schema, and wants the word json in a message.
func init() {
	register(openAI{
		name: "deepseek", reached: reach{base: "https://api.deepseek.com"},
		seed: seedNone, schema: schemaSpoken, thinkingOff: true,
	})
}
