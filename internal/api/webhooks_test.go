package api_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"

	"batchwright/internal/api"
	"batchwright/internal/store"
	"batchwright/internal/webhook"
)

// hooks is a project's one webhook and its deliveries.
type hooks struct {
	*fake
	err     error
	change  store.WebhookChange
	created store.WebhookChange
}

var hookID = uuid.MustParse("01990000-0000-7000-8000-0000000000aa")

func someWebhook() store.Webhook {
	return store.Webhook{ID: hookID, ProjectID: project.ID, URL: "https://example.com", Events: []string{"batch.completed"}, Enabled: true, SecretVersion: 1}
}

func someDelivery(seq int64) store.Delivery {
	status, why, batch := int32(500), "answered 500", someBatch().ID
	return store.Delivery{Seq: seq, ID: "msg_" + string(rune('a'+seq)), WebhookID: hookID, BatchID: &batch, Type: "batch.completed", Payload: json.RawMessage(`{"type":"batch.completed"}`),
		State: "pending", Attempts: 1, NextAttemptAt: time.Unix(1e9, 0), LastStatus: &status, LastError: &why}
}

func (h *hooks) Create(_ context.Context, _ uuid.UUID, url, description string, events []string) (store.Webhook, string, error) {
	h.created = store.WebhookChange{URL: &url, Description: &description, Events: events}
	return someWebhook(), "whsec_x", h.err
}

func (h *hooks) Update(_ context.Context, _, id uuid.UUID, c store.WebhookChange) (store.Webhook, error) {
	h.change = c
	return h.find(id)
}

func (h *hooks) Rotate(_ context.Context, _, id uuid.UUID) (store.Webhook, string, error) {
	w, err := h.find(id)
	return w, "whsec_y", err
}

func (h *hooks) Delete(_ context.Context, _, id uuid.UUID) error {
	_, err := h.find(id)
	return err
}

func (h *hooks) Test(_ context.Context, _, id uuid.UUID) (store.Delivery, error) {
	_, err := h.find(id)
	return someDelivery(9), err
}

func (h *hooks) Redeliver(_ context.Context, _, id uuid.UUID, delivery string) (store.Delivery, error) {
	if delivery != "msg_a" {
		return store.Delivery{}, store.ErrNotFound
	}
	_, err := h.find(id)
	return someDelivery(0), err
}

func (h *hooks) find(id uuid.UUID) (store.Webhook, error) {
	if id != hookID {
		return store.Webhook{}, store.ErrNotFound
	}
	return someWebhook(), h.err
}

func (h *hooks) Webhook(_ context.Context, _, id uuid.UUID) (store.Webhook, error) { return h.find(id) }

func (h *hooks) Webhooks(_ context.Context, _ uuid.UUID, before *uuid.UUID, _ int) ([]store.Webhook, error) {
	if before != nil {
		return nil, nil
	}
	return []store.Webhook{someWebhook()}, nil
}

func (h *hooks) Deliveries(_ context.Context, _, id uuid.UUID, state string, before int64, limit int) (all []store.Delivery, _ error) {
	for seq := int64(5); seq > 0 && id == hookID && state != "failed"; seq-- {
		if (before == 0 || seq < before) && len(all) < limit {
			all = append(all, someDelivery(seq))
		}
	}
	return all, nil
}

func newHooks(t *testing.T) (*hooks, *testAPI) {
	h := &hooks{fake: &fake{}}
	return h, newAPI(t, h.fake, func(s *api.Server) { s.Read, s.Webhooks = h, h })
}

const hookPath = "/v1/webhooks/01990000-0000-7000-8000-0000000000aa"

func send(method, path, body string) call {
	return call{method: method, path: path, body: body, header: map[string]string{"Content-Type": "application/json"}}
}

func TestWebhooksOverHTTP(t *testing.T) {
	t.Parallel()
	h, a := newHooks(t)
	made := a.do(t, send("POST", "/v1/webhooks", `{"url":"https://example.com","events":["batch.failed"],"description":"d"}`))
	if w := into[map[string]any](t, made, 201); w["secret"] != "whsec_x" || made.Header().Get("Location") != hookPath || *h.created.URL != "https://example.com" ||
		len(h.created.Events) != 1 || *h.created.Description != "d" {
		t.Errorf("%v %v %+v", w, made.Header(), h.created)
	}
	shown := into[map[string]any](t, a.do(t, call{path: hookPath}), 200)
	if _, secret := shown["secret"]; secret || shown["url"] != "https://example.com" {
		t.Errorf("shown %v", shown)
	}
	if p := into[api.WebhookPage](t, a.do(t, call{path: "/v1/webhooks"}), 200); len(p.Data) != 1 || p.NextCursor != nil {
		t.Errorf("list %+v", p)
	}
	into[api.Webhook](t, a.do(t, send("PATCH", hookPath, `{"enabled":false}`)), 200)
	if c := h.change; c.URL != nil || c.Events != nil || c.Description != nil || c.Enabled == nil || *c.Enabled {
		t.Errorf("changed %+v", c)
	}
	if w := into[map[string]any](t, a.do(t, call{method: "POST", path: hookPath + "/rotate"}), 200); w["secret"] != "whsec_y" {
		t.Errorf("rotated %v", w)
	}
	into[api.Delivery](t, a.do(t, call{method: "POST", path: hookPath + "/test"}), 202)
	into[api.Delivery](t, a.do(t, call{method: "POST", path: hookPath + "/deliveries/msg_a/redeliver"}), 202)
	if w := a.do(t, call{method: "DELETE", path: hookPath}); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("deleted with %d %s", w.Code, w.Body)
	}
	var seen []string
	for path := hookPath + "/deliveries?limit=2"; path != ""; {
		p := into[api.DeliveryPage](t, a.do(t, call{path: path}), 200)
		for _, d := range p.Data {
			seen = append(seen, d.ID)
		}
		if path = ""; p.NextCursor != nil {
			path = hookPath + "/deliveries?limit=2&cursor=" + *p.NextCursor
		}
	}
	if len(seen) != 5 || seen[0] != "msg_f" || seen[4] != "msg_b" {
		t.Errorf("paged through %v", seen)
	}
}

func TestWebhookRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		call   call
		err    error
		status int
		field  string
	}{
		{send("POST", "/v1/webhooks", `{}`), nil, 400, "/url"},
		{send("POST", "/v1/webhooks", `{"url":"https://example.com","events":["batch.exploded"]}`), nil, 400, "/events/0"},
		{send("POST", "/v1/webhooks", `{"url":"https://example.com","secret":"mine"}`), nil, 400, "/secret"},
		{send("POST", "/v1/webhooks", `{"url":"https://10.0.0.1"}`), &webhook.Error{Code: webhook.Invalid, Field: "url", Message: "m"}, 400, "/url"},
		{send("POST", "/v1/webhooks", `{"url":"https://example.com"}`), &webhook.Error{Code: webhook.Conflict, Message: "m"}, 409, ""},
		{send("POST", "/v1/webhooks", `{"url":"https://example.com"}`), &webhook.Error{Code: webhook.Unconfigured, Message: "set WEBHOOK_KEY"}, 503, ""},
		{call{method: "POST", path: hookPath + "/test"}, &webhook.Error{Code: webhook.Conflict, Message: "m"}, 409, ""},
		{call{method: "POST", path: hookPath + "/deliveries/msg_z/redeliver"}, nil, 404, ""},
		{call{path: "/v1/webhooks/01990000-0000-7000-8000-0000000000bb"}, nil, 404, ""},
		{call{path: "/v1/webhooks/01990000-0000-7000-8000-0000000000bb/deliveries"}, nil, 404, ""},
		{call{path: "/v1/webhooks/none"}, nil, 404, ""},
		{call{path: hookPath + "/deliveries?state=lost"}, nil, 400, "state"},
		{call{path: hookPath + "/deliveries?cursor=eA"}, nil, 400, "cursor"},
		{call{path: hookPath, anonymous: true}, nil, 401, ""},
	} {
		h, a := newHooks(t)
		h.err = c.err
		p := into[api.Problem](t, a.do(t, c.call), c.status)
		if c.field != "" && (len(p.Errors) != 1 || p.Errors[0].Field != c.field) {
			t.Errorf("%s %s: %+v", c.call.method, c.call.path, p)
		}
	}
	_, a := newHooks(t)
	if p := into[api.DeliveryPage](t, a.do(t, call{path: hookPath + "/deliveries?state=failed"}), 200); p.Data == nil || len(p.Data) != 0 {
		t.Errorf("no deliveries: %+v", p)
	}
}
