// Package api is the HTTP face of Batchwright: it holds the contract, decodes requests, and writes answers and problems.
//
// openapi.yaml comes first. Types, routes and decoding in api.gen.go are generated from it, every request is checked
// against it, and it is served at /openapi.json. What a batch means is decided below, in package jobs; reads go to the
// store's Reader, which can't write. This file and api.gen.go are the only ones that know Echo.
//
// A request passes: request id, access log, panic guard, then the contract (route, key, parameters, body limits and
// type), then Echo's router and the generated handler, then a method of handlers. Errors come back through all of it
// as values and become a problem in one place, writeProblem.
//
// 2026-11-21: the contract is OpenAPI 3.0.3, though both generators load 3.1. Under 3.1 kin-openapi validates with a
// JSON Schema 2020-12 library whose messages quote the offending values, and values don't belong in problems or logs.
// The road not taken: 3.1, and our own words for each keyword of that library.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"github.com/labstack/echo/v4/middleware"

	"batchwright/internal/jobs"
	"batchwright/internal/report"
	"batchwright/internal/store"
)

//go:generate go tool -modfile=../../tools/go.mod oapi-codegen -config oapi-codegen.yaml openapi.yaml

// Server holds what the API needs. All fields are required but those with a default.
type Server struct {
	Jobs          Writer
	Read          Reader
	Webhooks      WebhookWriter
	Exports       ExportWriter
	RedisPing     func(ctx context.Context) error
	Log           *slog.Logger // default: discard
	MaxBody       int64        // bytes of a streamed body, before and after decompression; default 512 MiB
	MaxLine       int          // bytes of a line or a document; default 32 MiB
	WantMigration int64        // schema level that this build needs

	Stopping <-chan struct{} // closed when the server is to stop: event streams end; default never
}

// Writer is what changes things: *jobs.Service, or a fake of it.
type Writer interface {
	uploader
	previewer
	Submit(ctx context.Context, project store.Project, spec jobs.Spec, lines iter.Seq2[jobs.Line, error]) (b store.Batch, replayed bool, err error)
	SaveTemplate(ctx context.Context, project uuid.UUID, name string, spec json.RawMessage) (t store.Template, created bool, err error)
	SaveRoute(ctx context.Context, project uuid.UUID, name string, route json.RawMessage) (r store.Route, created bool, err error)
	controller
	rerunner
	budgetWriter
	scheduler
	priceWriter
}

// Reader is what only looks: store.Reader, or a fake of it.
type Reader interface {
	ProjectByKey(ctx context.Context, keySHA256 [32]byte) (store.Project, error)
	Ready(ctx context.Context) (migration int64, err error)
	batchReader
	deadReader
	catalogReader
	webhookReader
	budgetReader
	report.Reader
	scheduleReader
	priceReader
	reportReader
	exportReader
	forecastReader
}

type batchReader interface {
	Batch(ctx context.Context, project, id uuid.UUID) (store.Batch, error)
	BatchStats(ctx context.Context, b store.Batch) (store.BatchStats, error)
	Batches(ctx context.Context, project uuid.UUID, kind, state string, before *uuid.UUID, limit int) ([]store.Batch, error)
	Jobs(ctx context.Context, batch uuid.UUID, state string, afterSeq int32, limit int) ([]store.Job, error)
	Job(ctx context.Context, project, batch uuid.UUID, seq int32) (store.Job, error)
	Calls(ctx context.Context, batch uuid.UUID, seq int32) ([]store.Call, error)
	InvalidOutput(ctx context.Context, project, batch uuid.UUID, seq int32) (string, error)
	Details(ctx context.Context, batch uuid.UUID, seq int32) ([]byte, error)
	Source(ctx context.Context, project, batch uuid.UUID, seq int32) (store.Source, error)
	JobText(ctx context.Context, project, batch uuid.UUID, seq int32) (store.TextInfo, error)
	Results(ctx context.Context, batch uuid.UUID, state string, afterSeq int32) iter.Seq2[store.Result, error]
}

type catalogReader interface {
	Templates(ctx context.Context, project uuid.UUID, after string, limit int) ([]store.Template, error)
	TemplateByName(ctx context.Context, project uuid.UUID, name string, version int32) (store.Template, error)
	TemplateVersions(ctx context.Context, project uuid.UUID, name string) ([]store.Template, error)
	Routes(ctx context.Context, project uuid.UUID, after string, limit int) ([]store.Route, error)
	RouteByName(ctx context.Context, project uuid.UUID, name string, version int32) (store.Route, error)
	RouteVersions(ctx context.Context, project uuid.UUID, name string) ([]store.Route, error)
}

// handlers implements the generated StrictServerInterface.
type handlers struct {
	Server
	contract *contract
	keys     *keyring
	hubs     *hubs
}

var _ StrictServerInterface = (*handlers)(nil)

func newHandlers(s Server) *handlers {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.MaxBody <= 0 {
		s.MaxBody = 512 << 20
	}
	if s.MaxLine <= 0 {
		s.MaxLine = 32 << 20
	}
	c, err := loadContract()
	if err != nil { // the file is compiled in: a bug that every test meets
		panic(err)
	}
	return &handlers{Server: s, contract: c, keys: newKeyring(s.Read.ProjectByKey),
		hubs: &hubs{read: s.Read, log: s.Log, open: map[uuid.UUID]*hub{}}}
}

// Handler builds the API. It panics when the embedded contract is broken.
func (s *Server) Handler() http.Handler {
	h := newHandlers(*s)
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.JSONSerializer = serializer{}
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		if !c.Response().Committed {
			h.writeProblem(c.Response(), c.Request(), fromEcho(err))
		}
	}
	e.Pre(decodedPath)
	e.Use(
		requestID(),
		h.accessLog(),
		middleware.GzipWithConfig(middleware.GzipConfig{Skipper: isStream, MinLength: 1024}),
		middleware.RecoverWithConfig(middleware.RecoverConfig{LogErrorFunc: h.logPanic, DisableStackAll: true}),
		middleware.Secure(),
		echo.WrapMiddleware(h.checked),
	)
	RegisterHandlers(e, NewStrictHandler(h, nil))
	return e
}

// decodedPath makes Echo route by the decoded path, as the contract does. With two readings of one path the request could
// be checked as one operation and handled as another.
func decodedPath(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		c.Request().URL.RawPath = ""
		return next(c)
	}
}

// isStream tells answers that must reach the client as they are made: compression would hold them back.
func isStream(c echo.Context) bool {
	return strings.HasSuffix(c.Path(), "/results") || strings.HasSuffix(c.Path(), "/export") || strings.HasSuffix(c.Path(), "/reports/:name") || strings.HasSuffix(c.Path(), "/events") || strings.HasSuffix(c.Path(), "/diff/:other")
}

// requestID keeps a caller's X-Request-Id if it is short and plain, and makes one otherwise.
func requestID() echo.MiddlewareFunc {
	id := middleware.RequestIDWithConfig(middleware.RequestIDConfig{Generator: uuid.NewString})
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		next = id(next)
		return func(c echo.Context) error {
			if !plainID(c.Request().Header.Get(echo.HeaderXRequestID)) {
				c.Request().Header.Del(echo.HeaderXRequestID)
			}
			return next(c)
		}
	}
}

func plainID(id string) bool {
	return len(id) <= 64 && strings.Trim(id, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_.") == ""
}

func (h *handlers) accessLog() echo.MiddlewareFunc {
	return middleware.RequestLoggerWithConfig(middleware.RequestLoggerConfig{
		HandleError: true, LogMethod: true, LogRoutePath: true, LogStatus: true, LogLatency: true, LogResponseSize: true,
		LogValuesFunc: func(c echo.Context, v middleware.RequestLoggerValues) error {
			h.Log.DebugContext(c.Request().Context(), "request", "method", v.Method, "route", v.RoutePath, "status", v.Status,
				"duration", v.Latency, "bytes", v.ResponseSize, "request_id", c.Response().Header().Get(echo.HeaderXRequestID))
			return nil
		},
	})
}

func (h *handlers) logPanic(c echo.Context, err error, stack []byte) error {
	return fmt.Errorf("panic: %w\n%s", err, stack)
}

// fromEcho keeps the status of Echo's own errors and drops their text, which may quote values.
func fromEcho(err error) error {
	he, ok := errors.AsType[*echo.HTTPError](err)
	if !ok || he.Code >= http.StatusInternalServerError {
		return err
	}
	return &problem{status: he.Code, detail: "a parameter or the body has the wrong form", err: err}
}

// serializer hands a body over as the bytes that the contract check has read already.
type serializer struct{ echo.DefaultJSONSerializer }

func (s serializer) Deserialize(c echo.Context, into any) error {
	body, ok := c.Request().Body.(*jsonBody)
	if !ok {
		return s.DefaultJSONSerializer.Deserialize(c, into)
	}
	if raw, ok := into.(*json.RawMessage); ok {
		*raw = body.data
		return nil
	}
	return json.Unmarshal(body.data, into)
}
