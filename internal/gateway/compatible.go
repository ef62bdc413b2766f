package gateway

func init() { register(compatible("openai-compatible")) }

// compatible is any server that speaks the OpenAI chat form at a base URL of the operator's: vLLM, Ollama, llama.cpp,
// a proxy. Such servers often want no key, and know the cap by its old name. The slugs custom-NAME are the same.
func compatible(name string) Provider { return openAI{name: name, reached: reach{keyless: true}} }
