package api

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
)

//go:embed openapi.yaml
var contractYAML []byte

// contract is openapi.yaml, ready to check requests.
type contract struct {
	router  routers.Router
	options *openapi3.Schema // BatchOptions
	rerun   *openapi3.Schema // RerunOptions
	json    []byte           // the document, for /openapi.json
}

// loadContract parses it once: that takes a while, and nothing changes it afterwards.
var loadContract = sync.OnceValues(func() (*contract, error) {
	doc, err := openapi3.NewLoader().LoadFromData(contractYAML)
	if err != nil {
		return nil, fmt.Errorf("api: contract: %w", err)
	}
	router, err := legacy.NewRouter(doc)
	if err != nil {
		return nil, fmt.Errorf("api: contract: %w", err)
	}
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("api: contract: %w", err)
	}
	return &contract{router, doc.Components.Schemas["BatchOptions"].Value, doc.Components.Schemas["RerunOptions"].Value, text}, nil
})

// route finds the operation of a request. The error is a 404 or 405 problem.
func (c *contract) route(r *http.Request) (*routers.Route, map[string]string, error) {
	route, params, err := c.find(r)
	if err == nil {
		return route, params, nil
	}
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
		if _, _, err := c.find(&http.Request{Method: method, URL: r.URL}); err == nil {
			allowed = append(allowed, method)
		}
	}
	if allowed == nil {
		return nil, nil, &problem{status: http.StatusNotFound, detail: "there is nothing at this path; the contract is at /openapi.json", err: err}
	}
	return nil, nil, &problem{
		status: http.StatusMethodNotAllowed, detail: "this path takes " + strings.Join(allowed, " and "),
		header: http.Header{"Allow": {strings.Join(allowed, ", ")}}, err: err,
	}
}

// find is the router's FindRoute, but a path's parameter is never empty: for it, /v1/batches is also a batch without an id.
func (c *contract) find(r *http.Request) (*routers.Route, map[string]string, error) {
	route, params, err := c.router.FindRoute(r)
	for _, value := range params {
		if value == "" {
			err = routers.ErrMethodNotAllowed
		}
	}
	return route, params, err
}

// open reports whether an operation needs no key.
func open(op *openapi3.Operation) bool { return op.Security != nil && len(*op.Security) == 0 }

// checked lets a request through when it follows the contract: its route, its key, its parameters, the type and size
// of its body, and a JSON body's fields. The fields of a batch submission, which may be a stream, are checked by its handler.
func (h *handlers) checked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A copy, whose body is replaced. Were it the server's own request, net/http would not know any more that nothing was read of the
		// body, and would wait for it before it sends a refusal, while the client waits for leave to send it.
		r = r.WithContext(r.Context())
		ctx, err := h.check(w, r)
		if err != nil {
			h.writeProblem(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// check returns the context for the handler. It replaces r's body with one that is limited and decompressed.
func (h *handlers) check(w http.ResponseWriter, r *http.Request) (context.Context, error) {
	ctx, ctl := r.Context(), http.NewResponseController(w)
	if r.ContentLength != 0 {
		allowRead(ctl) // a body that is refused unread is drained by the server: that must end as well
	}
	route, path, err := h.contract.route(r)
	if err != nil {
		return nil, err
	}
	if !open(route.Operation) {
		project, err := h.keys.project(ctx, r.Header.Get("Authorization"))
		if err != nil {
			return nil, err
		}
		ctx = withProject(ctx, project)
	}
	if err := checkParameters(ctx, r, route, path); err != nil {
		return nil, err
	}
	if route.Operation.RequestBody == nil {
		return ctx, nil
	}
	content := route.Operation.RequestBody.Value.Content
	if err := h.openBody(ctl, r, content); err != nil {
		return nil, err
	}
	if body, ok := r.Body.(*jsonBody); ok && len(content) == 1 {
		value, err := decodeAny(body.data)
		if err != nil {
			return nil, err
		}
		if faults := validate(content.Get("application/json").Schema.Value, value); faults != nil {
			return nil, invalid(faults)
		}
	}
	return ctx, nil
}

func checkParameters(ctx context.Context, r *http.Request, route *routers.Route, path map[string]string) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return &problem{status: http.StatusBadRequest, detail: "the query string is malformed", err: err}
	}
	var faults []Fault
	for name, values := range query {
		p := route.Operation.Parameters.GetByInAndName(openapi3.ParameterInQuery, name)
		switch {
		case p == nil:
			faults = append(faults, Fault{Field: clip(name), Code: "unknown_parameter", Message: "this operation has no such query parameter"})
		case len(values) > 1 && (!p.Schema.Value.Type.Is("array") || p.Explode != nil && !*p.Explode):
			faults = append(faults, Fault{Field: name, Code: "repeated", Message: "may be given once"})
		}
	}
	in := &openapi3filter.RequestValidationInput{
		Request: r, PathParams: path, QueryParams: query, Route: route,
		Options: &openapi3filter.Options{MultiError: true, SkipSettingDefaults: true},
	}
	for _, p := range route.Operation.Parameters { // not ValidateRequest: it reads the whole body for its security check
		faults = append(faults, faultsOf(openapi3filter.ValidateParameter(ctx, in, p.Value))...)
	}
	if faults != nil {
		return invalid(faults)
	}
	return nil
}

// decodeAny reads JSON for validation, numbers unrounded.
func decodeAny(data []byte) (v any, err error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		return nil, badJSON(data, err)
	}
	return v, nil
}

// validate lists what is wrong with value.
func validate(schema *openapi3.Schema, value any) []Fault {
	return faultsOf(schema.VisitJSON(value, openapi3.MultiErrors(), openapi3.VisitAsRequest(), openapi3.DisableSchemaErrorDetails()))
}

// faultsOf translates the validator's errors. It names fields and rules, never values.
func faultsOf(err error) []Fault {
	switch e := err.(type) { //nolint:errorlint // the shape of the tree is the information
	case nil:
		return nil
	case openapi3.MultiError:
		var all []Fault
		for _, err := range e {
			all = append(all, faultsOf(err)...)
		}
		return all
	case *openapi3filter.RequestError:
		return parameterFaults(e)
	case *openapi3.SchemaError:
		return schemaFaults(e)
	}
	return []Fault{{Code: "invalid", Message: "does not follow the contract"}}
}

func parameterFaults(e *openapi3filter.RequestError) []Fault {
	field := e.Parameter.Name
	if errors.Is(e.Err, openapi3filter.ErrInvalidRequired) {
		return []Fault{{Field: field, Code: "required", Message: "is required"}}
	}
	if errors.Is(e.Err, openapi3filter.ErrInvalidEmptyValue) {
		return []Fault{{Field: field, Code: "empty", Message: "must not be empty"}}
	}
	if _, ok := errors.AsType[*openapi3filter.ParseError](e.Err); ok {
		return []Fault{{Field: field, Code: "wrong_type", Message: "must be of type " + strings.Join(e.Parameter.Schema.Value.Type.Slice(), " or ")}}
	}
	faults := faultsOf(e.Err)
	for i := range faults {
		faults[i].Field = field
	}
	return faults
}

// faultCodes names the rule that was broken, by JSON Schema keyword.
var faultCodes = map[string]string{
	"required": "required", "properties": "unknown_field", "type": "wrong_type", "enum": "not_allowed", "pattern": "bad_format",
	"minLength": "too_short", "maxLength": "too_long", "minItems": "too_few", "maxItems": "too_many", "maxProperties": "too_many",
	"minimum": "out_of_range", "maximum": "out_of_range",
}

func schemaFaults(e *openapi3.SchemaError) []Fault {
	if e.SchemaField == "oneOf" {
		return oneOfFaults(e)
	}
	f := Fault{Field: pointer(e.JSONPointer()), Code: faultCodes[e.SchemaField], Message: strings.TrimPrefix(e.Reason, "value ")}
	switch e.SchemaField {
	case "required":
		f.Message = "is required"
	case "pattern":
		f.Message = "must match " + e.Schema.Pattern
	case "properties":
		var name string
		if _, err := fmt.Sscanf(e.Reason, "property %q is unsupported", &name); err == nil {
			f.Field, f.Message = f.Field+pointer([]string{name}), "there is no such field"
		}
	case "nullable":
		f.Code, f.Message = "wrong_type", "must not be null"
	}
	if f.Code == "" {
		f.Code = "invalid"
	}
	return []Fault{f}
}

// oneOfFaults reports the branch that was meant: the one whose type fits.
func oneOfFaults(e *openapi3.SchemaError) []Fault {
	depth := len(e.JSONPointer())
	var meant []Fault
	var types []string
	for _, branch := range e.Schema.OneOf {
		types = append(types, branch.Value.Type.Slice()...)
	}
	for _, err := range branches(e.Origin) {
		if se, ok := err.(*openapi3.SchemaError); ok && (se.SchemaField != "type" || len(se.JSONPointer()) > depth) { //nolint:errorlint // as in faultsOf
			meant = append(meant, schemaFaults(se)...)
		}
	}
	if meant == nil {
		return []Fault{{Field: pointer(e.JSONPointer()), Code: "wrong_type", Message: "must be of type " + strings.Join(types, " or ")}}
	}
	return meant
}

func branches(err error) []error {
	var all []error
	me, ok := errors.AsType[openapi3.MultiError](err)
	if !ok {
		return []error{err}
	}
	for _, err := range me {
		all = append(all, branches(err)...)
	}
	return all
}

// pointer is RFC 6901, with long names cut.
func pointer(path []string) string {
	var b strings.Builder
	for _, key := range path {
		b.WriteByte('/')
		b.WriteString(strings.NewReplacer("~", "~0", "/", "~1").Replace(clip(key)))
	}
	return b.String()
}

// clip cuts a name that a caller made up.
func clip(name string) string {
	const most = 100
	if len(name) <= most {
		return name
	}
	return strings.ToValidUTF8(name[:most], "") + "..."
}

// GetContract serves the document.
func (h *handlers) GetContract(context.Context, GetContractRequestObject) (GetContractResponseObject, error) {
	return contractAnswer(h.contract.json), nil
}

type contractAnswer []byte

func (a contractAnswer) VisitGetContractResponse(w http.ResponseWriter) error {
	w.Header().Set("Content-Type", "application/json")
	_, err := w.Write(a)
	return err
}
