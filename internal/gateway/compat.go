package gateway

func init() { register(openAI{name: "compat", reached: reach{keyless: true}}) }

// The slug compat is a gateway's own OpenAI-compatible path, /compat/chat/completions: a model is "provider/model" or
// "dynamic/route", and the gateway finds the provider. It is a step like any other of the Universal array; the engine
// serves it when a gateway's .../compat is configured as its base URL.
