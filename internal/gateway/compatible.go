package gateway

func init() { register(compatible("openai-compatible")) }

// compatible is any server that speaks the OpenAI chat form at a base URL of the operator's: vLLM, Ollama, llama.cpp,
// a proxy. Such servers often want no key, and know the cap by its old name. The slugs custom-NAME are the same.
func compatible(name string) Provider {
	return openAI{name: name, reached: reach{keyless: true}, oddities: tooLong}
}

// tooLong are the words of vLLM and of llama.cpp for a prompt over the context window; OpenRouter's hosts are often one
// of the two.
var tooLong = []oddity{
	{400, "maximum context length", codes["context_length_exceeded"]},
	{400, "exceed_context_size_error", codes["context_length_exceeded"]},
}
