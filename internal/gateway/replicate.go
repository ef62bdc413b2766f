package gateway

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
)

func init() { register(replicate{}) }

// replicate runs predictions. A model is owner/name, for the official ones, or owner/name:version.
//
// A prediction is asked for with "Prefer: wait", which holds the answer for up to a minute; what is not done by then is
// a promise that has to be asked for again:
//
//	starting -> processing -> succeeded | failed | canceled
//	starting -> aborted (it never ran and costs nothing)
//
// Models take one prompt, not messages: a chat of several turns is written out as a transcript that ends where the
// assistant is to go on. Each model has input fields of its own, and one it doesn't know is refused with status 422, so
// only what the chat sets is sent, under the names that the official language models use; without a cap the model's
// own holds. JSON is asked for in the system prompt. Streams are not read: they come from an address that only the
// answer tells. The OpenAI chat form isn't known.
type replicate struct{}

// Name implements Provider.
func (replicate) Name() string { return "replicate" }

func (replicate) reach() reach { return reach{base: "https://api.replicate.com/v1"} }

// A prediction that nobody waits for any more must not bill on: it cancels itself after the longest that a request takes
// here.
func (replicate) headers() map[string]string {
	return map[string]string{"Prefer": "wait", "Cancel-After": "15m"}
}

const replicateEndpoint = "v1/predictions"

// replicateModel is owner/name or owner/name:version. Source: what replicate.com lets one call an account and a model.
var replicateModel = regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9_.-]*)/([A-Za-z0-9][A-Za-z0-9_.-]*)(?::([0-9a-f]{1,64}))?$`)

type replicateRequest struct {
	Version string         `json:"version,omitempty"`
	Input   replicateInput `json:"input"`
}

type replicateInput struct {
	MaxTokens   int      `json:"max_tokens,omitempty"`
	Temperature *float64 `json:"temperature,omitempty"`
	TopP        *float64 `json:"top_p,omitempty"`
	Seed        *int64   `json:"seed,omitempty"`
	Stop        string   `json:"stop_sequences,omitempty"` // with commas between
	System      string   `json:"system_prompt,omitempty"`
	Prompt      string   `json:"prompt"`
}

// Encode implements Provider. A stop sequence with a comma in it can't be said and is left out.
func (p replicate) Encode(model string, c *Chat) (string, json.RawMessage, error) {
	if err := c.onlyChat(p.Name()); err != nil {
		return "", nil, err
	}
	m := replicateModel.FindStringSubmatch(model)
	if m == nil {
		return "", nil, invalid("invalid_model", "a model of replicate is named owner/name or owner/name:version")
	}
	whole := *c
	whole.Stable = Stable{}
	system, turns := splitSystem(parts(&whole, sayJSON(c)))
	if len(turns) == 0 {
		return "", nil, invalid("no_messages", "the chat has no message with any text in it")
	}
	r := replicateRequest{Version: m[3], Input: replicateInput{
		MaxTokens: c.MaxTokens, Temperature: c.Temperature, TopP: c.TopP, Seed: c.Seed, System: texts(system), Prompt: transcript(turns),
	}}
	var stops []string
	for _, s := range c.Stop {
		if s != "" && !strings.Contains(s, ",") {
			stops = append(stops, s)
		}
	}
	r.Input.Stop = strings.Join(stops, ",")
	body, err := encode(r)
	if m[3] != "" {
		return replicateEndpoint, body, err
	}
	return "v1/models/" + m[1] + "/" + m[2] + "/predictions", body, err
}

// transcript writes turns as one prompt. The words of the user alone need no names before them.
func transcript(turns []part) string {
	alone := true
	for _, t := range turns {
		alone = alone && t.role == "user"
	}
	if alone {
		return texts(turns)
	}
	var b strings.Builder
	role := ""
	for _, t := range turns {
		switch {
		case t.role == role:
			b.WriteString("\n\n")
		case role != "":
			b.WriteString("\n\n")
			fallthrough
		default:
			role = t.role
			b.WriteString(map[string]string{"user": "User: ", "assistant": "Assistant: "}[role])
		}
		b.WriteString(t.text)
	}
	if role == "user" {
		b.WriteString("\n\nAssistant:")
	}
	return b.String()
}

// EncodeRaw implements Provider.
func (p replicate) EncodeRaw(json.RawMessage) (string, error) {
	return "", invalid("unsupported_form", "provider %s doesn't take bodies in the OpenAI chat form; give it a chat", p.Name())
}

type replicatePrediction struct {
	ID      string
	Model   string
	Version string
	Status  string
	Error   json.RawMessage
	Output  json.RawMessage
	Input   struct {
		MaxTokens count `json:"max_tokens"`
	}
	Metrics replicateMetrics
}

// replicateMetrics has the tokens of language models. The price may go by time instead.
type replicateMetrics struct {
	Input  count `json:"input_token_count"`
	Output count `json:"output_token_count"`
}

// replicateID matches the ids of predictions, old and new.
var replicateID = regexp.MustCompile(`^[a-z0-9]{1,64}$`)

// pending implements follower. The address in the answer is not gone by, lest a key go where an answer says.
func (replicate) pending(status int, body []byte) (string, bool) {
	var a replicatePrediction
	if status/100 != 2 {
		return "", false
	}
	if err := json.Unmarshal(trim(body), &a); err != nil && !isTypeError(err) {
		return "", false
	}
	if a.Status != "starting" && a.Status != "processing" || !replicateID.MatchString(a.ID) {
		return "", false
	}
	return replicateEndpoint + "/" + a.ID, true
}

// Codes of ours for how a prediction ends.
const (
	codePending = "prediction_pending" // nobody asked again
	codeFailed  = "prediction_failed"
)

// replicateErrors are the codes that Replicate puts in brackets behind what it says of a failed prediction. Source:
// predictions quoted in public bug reports, read in November 2026.
var replicateErrors = map[string]Class{
	"E003": Overloaded, "E004": Overloaded, "E005": ContentFiltered, "E1001": Server, "E6716": Timeout,
}

var replicateCode = regexp.MustCompile(`\((E[0-9]{3,5})\)`)

// Decode implements Provider.
func (p replicate) Decode(status int, _ http.Header, body []byte) (*Response, error) {
	if status/100 != 2 {
		e := failureOf(p.Name(), status, body)
		if e.RetryAfter == 0 && e.Class == RateLimited {
			e.RetryAfter = waitInWords(said(body))
		}
		return nil, e
	}
	var a replicatePrediction
	if e := readAnswer(status, body, &a); e != nil {
		return nil, e
	}
	r := &Response{Model: cleanName(a.Model), Usage: Usage{
		Input: int64(a.Metrics.Input), Output: int64(a.Metrics.Output), Known: a.Metrics.Input > 0 || a.Metrics.Output > 0,
	}}
	switch a.Status {
	case "succeeded":
	case "starting", "processing":
		return r, &Error{Class: Timeout, Status: status, Code: codePending, Uncertain: true,
			Message: message(verdict{says: "the prediction wasn't done when it was last asked for"}, status, codePending)}
	case "failed":
		return r, p.failed(status, &a, r)
	case "canceled": // by somebody else, or at a deadline; what had run is charged
		return r, stopped(Timeout, status, "prediction_canceled", r)
	case "aborted": // at a deadline, before it ran
		e := stopped(Overloaded, status, "prediction_aborted", r)
		e.Uncertain = false
		return r, e
	default:
		return r, ours(codeInvalidAnswer, status)
	}
	r.Text = clean(replicateOutput(a.Output))
	r.Finish = FinishStop
	if limit := a.Input.MaxTokens; limit > 0 && a.Metrics.Output >= limit { // the one sign of it that there is
		r.Finish = FinishLength
	}
	if r.Text == "" {
		return r, ours(codeNoAnswer, status)
	}
	return r, nil
}

// failed classifies a prediction that failed. What the model said of it is unknown to us unless it has a code.
func (replicate) failed(status int, a *replicatePrediction, r *Response) *Error {
	if m := replicateCode.FindStringSubmatch(text(a.Error)); m != nil {
		if class, ok := replicateErrors[m[1]]; ok {
			if class == ContentFiltered {
				r.Finish = FinishFiltered
			}
			return stopped(class, status, m[1], r)
		}
		return stopped(Unknown, status, m[1], r)
	}
	return stopped(Unknown, status, codeFailed, r)
}

// replicateOutput is a string, or pieces to be joined; another value is left as it is.
func replicateOutput(raw json.RawMessage) string {
	switch kindOf(raw) {
	case 0, 'n':
		return ""
	case '"':
		return text(raw)
	case '[':
		var pieces []string
		if json.Unmarshal(raw, &pieces) == nil {
			return strings.Join(pieces, "")
		}
	}
	return string(raw)
}
