// Command openai-go runs OpenAI's SDK for Go against the gateway and prints the outcome of each case as a line of JSON.
// It is a module of its own, so that Batchwright doesn't depend on the SDK.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
)

var (
	origin  = os.Getenv("GATEWAY_ORIGIN")
	account = os.Getenv("ACCOUNT")
	token   = os.Getenv("TOKEN")
	key     = os.Getenv("PROVIDER_KEY")
)

// run is one case. The option that it gets names it to the provider's stand-in.
type run func(ctx context.Context, named option.RequestOption) error

func check(name string, f run) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	line := struct {
		Case  string `json:"case"`
		OK    bool   `json:"ok"`
		Error string `json:"error,omitempty"`
	}{Case: "openai-go/" + name, OK: true}
	if err := f(ctx, option.WithHeader("X-Case", line.Case)); err != nil {
		line.OK, line.Error = false, err.Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(line) // strings always encode
}

func base(gateway, slug string) option.RequestOption {
	return option.WithBaseURL(fmt.Sprintf("%s/v1/%s/%s/%s/", origin, account, gateway, slug))
}

func client(slug string, more ...option.RequestOption) openai.Client {
	return openai.NewClient(append([]option.RequestOption{option.WithAPIKey(key), base("main", slug),
		option.WithHeader("cf-aig-authorization", "Bearer "+token)}, more...)...)
}

func ask(model, content string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{Model: model, Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(content)}}
}

func same[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %v, want %v", what, got, want)
	}
	return nil
}

// refused returns the SDK's error, which the call must have ended with.
func refused(err error, status int) (*openai.Error, error) {
	var e *openai.Error
	if !errors.As(err, &e) {
		return nil, fmt.Errorf("not an error of the API: %w", err)
	}
	return e, same("status", e.StatusCode, status)
}

// refusedByGateway: in v3.96 the SDK reads an object in "error", where Cloudflare's envelope has an array, and so says of
// the gateway's own refusals only that it can't read them. A later one may.
func refusedByGateway(err error, status int) error {
	if err != nil && strings.Contains(err.Error(), "cannot unmarshal array into Go value of type apierror.Error") {
		return nil
	}
	_, err = refused(err, status)
	return err
}

func main() {
	chats("openai", "gpt-4o-mini")
	chats("compat", "openai/gpt-4o-mini")
	rest()
}

func chats(slug, model string) {
	c := client(slug)
	one := func(name string, f run) { check(slug+"/"+name, f) }
	other := func(name string) string { return strings.TrimSuffix(model, "gpt-4o-mini") + name }

	one("chat", func(ctx context.Context, named option.RequestOption) error {
		var res *http.Response
		r, err := c.Chat.Completions.New(ctx, ask(model, "Grüße, 你好 & <b>"), named, option.WithResponseInto(&res))
		if err != nil {
			return err
		}
		return errors.Join(same("text", r.Choices[0].Message.Content, "you said: Grüße, 你好 & <b>"), same("tokens", r.Usage.TotalTokens, 18),
			same("cache", res.Header.Get("Cf-Aig-Cache-Status"), "MISS"), same("step", res.Header.Get("Cf-Aig-Step"), "0"))
	})
	one("stream", func(ctx context.Context, named option.RequestOption) error {
		p := ask(model, "a stream: ü")
		p.StreamOptions.IncludeUsage = param.NewOpt(true)
		s := c.Chat.Completions.NewStreaming(ctx, p, named)
		var all openai.ChatCompletionAccumulator
		for s.Next() {
			all.AddChunk(s.Current())
		}
		if s.Err() != nil {
			return s.Err()
		}
		return errors.Join(same("text", all.Choices[0].Message.Content, "you said: a stream: ü"), same("tokens", all.Usage.CompletionTokens, 7))
	})
	one("tools", func(ctx context.Context, named option.RequestOption) error {
		p := ask(model, "Weather in Oslo?")
		p.Tools = []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
			Name: "weather", Parameters: shared.FunctionParameters{"type": "object", "properties": map[string]any{"city": map[string]any{"type": "string"}}}})}
		r, err := c.Chat.Completions.New(ctx, p, named)
		if err != nil {
			return err
		}
		m := r.Choices[0].Message
		if err := same("arguments", m.ToolCalls[0].Function.Arguments, `{"city":"Oslo"}`); err != nil {
			return err
		}
		p.Messages = append(p.Messages, m.ToParam(), openai.ToolMessage("rain in Oslo", m.ToolCalls[0].ID))
		if r, err = c.Chat.Completions.New(ctx, p, named); err != nil {
			return err
		}
		return same("text", r.Choices[0].Message.Content, "the tool said: rain in Oslo")
	})
	one("bad-request", func(ctx context.Context, named option.RequestOption) error {
		_, err := c.Chat.Completions.New(ctx, ask(other("fail-400"), "x"), named)
		e, err := refused(err, 400)
		if err != nil {
			return err
		}
		return errors.Join(same("code", e.Code, "context_length_exceeded"), same("param", e.Param, "messages"))
	})
	one("sdk-retries-500", func(ctx context.Context, named option.RequestOption) error {
		r, err := c.Chat.Completions.New(ctx, ask(other("flaky-500"), "again"), named)
		if err != nil {
			return err
		}
		return same("text", r.Choices[0].Message.Content, "you said: again")
	})
	one("sdk-waits-429", func(ctx context.Context, named option.RequestOption) error {
		began := time.Now()
		r, err := c.Chat.Completions.New(ctx, ask(other("flaky-429"), "later"), named)
		if err != nil {
			return err
		}
		return errors.Join(same("text", r.Choices[0].Message.Content, "you said: later"), same("waited", time.Since(began) >= time.Second, true))
	})
	one("gateway-retries", func(ctx context.Context, named option.RequestOption) error {
		r, err := c.Chat.Completions.New(ctx, ask(other("flaky-500"), "again"), named, option.WithMaxRetries(0),
			option.WithHeader("cf-aig-max-attempts", "2"), option.WithHeader("cf-aig-retry-delay", "5"))
		if err != nil {
			return err
		}
		return same("text", r.Choices[0].Message.Content, "you said: again")
	})
	one("cache", func(ctx context.Context, named option.RequestOption) error {
		for _, want := range []string{"MISS", "HIT"} {
			var res *http.Response
			r, err := c.Chat.Completions.New(ctx, ask(model, "the same of Go's below "+slug), named, option.WithHeader("cf-aig-cache-ttl", "300"), option.WithResponseInto(&res))
			if err != nil {
				return err
			}
			if err := errors.Join(same("text", r.Choices[0].Message.Content, "you said: the same of Go's below "+slug),
				same("cache", res.Header.Get("Cf-Aig-Cache-Status"), want)); err != nil {
				return err
			}
		}
		return nil
	})
	one("no-token", func(ctx context.Context, named option.RequestOption) error {
		_, err := c.Chat.Completions.New(ctx, ask(model, "x"), named, option.WithHeaderDel("cf-aig-authorization"))
		return refusedByGateway(err, 401)
	})
	one("no-gateway", func(ctx context.Context, named option.RequestOption) error {
		_, err := c.Chat.Completions.New(ctx, ask(model, "x"), named, base("nowhere", slug))
		return refusedByGateway(err, 400)
	})
	one("stored-key", func(ctx context.Context, named option.RequestOption) error {
		r, err := c.Chat.Completions.New(ctx, ask(model, "stored"), named, base("stored", slug), option.WithAPIKey(token),
			option.WithHeaderDel("cf-aig-authorization"))
		if err != nil {
			return err
		}
		return same("text", r.Choices[0].Message.Content, "you said: stored")
	})
}

func rest() {
	c := client("openai")
	check("openai/responses", func(ctx context.Context, named option.RequestOption) error {
		r, err := c.Responses.New(ctx, responses.ResponseNewParams{Model: "gpt-4o-mini",
			Input: responses.ResponseNewParamsInputUnion{OfString: param.NewOpt("respond")}}, named)
		if err != nil {
			return err
		}
		return errors.Join(same("text", r.OutputText(), "you said: respond"), same("tokens", r.Usage.TotalTokens, 23))
	})
	check("openai/responses-stream", func(ctx context.Context, named option.RequestOption) error {
		s := c.Responses.NewStreaming(ctx, responses.ResponseNewParams{Model: "gpt-4o-mini",
			Input: responses.ResponseNewParamsInputUnion{OfString: param.NewOpt("respond")}}, named)
		text := ""
		for s.Next() {
			if e := s.Current(); e.Type == "response.output_text.delta" {
				text += e.Delta
			}
		}
		return errors.Join(s.Err(), same("text", text, "you said: respond"))
	})
	check("openai/models", func(ctx context.Context, named option.RequestOption) error {
		page := c.Models.ListAutoPaging(ctx, named)
		n := 0
		for page.Next() {
			n++
		}
		return errors.Join(page.Err(), same("models", n, 1))
	})
	check("openai/files", func(ctx context.Context, named option.RequestOption) error {
		f, err := c.Files.New(ctx, openai.FileNewParams{File: openai.File(strings.NewReader("{\"custom_id\":\"1\"}\n"), "in.jsonl", "application/jsonl"),
			Purpose: openai.FilePurposeBatch}, named)
		if err != nil {
			return err
		}
		res, err := c.Files.Content(ctx, f.ID, named)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		raw, err := io.ReadAll(res.Body)
		return errors.Join(err, same("content", bytes.Equal(raw, []byte("\x00\xff\n{}\n\x80")), true), same("bytes", f.Bytes, 18))
	})
	check("openai/embeddings", func(ctx context.Context, named option.RequestOption) error {
		r, err := c.Embeddings.New(ctx, openai.EmbeddingNewParams{Model: "text-embedding-3-small",
			Input: openai.EmbeddingNewParamsInputUnion{OfArrayOfStrings: []string{"a", "b"}}}, named)
		if err != nil {
			return err
		}
		return errors.Join(same("vectors", len(r.Data), 2), same("value", r.Data[0].Embedding[1], -1))
	})
}
