package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"batchwright/internal/gateway"
	"batchwright/internal/store"
)

// gatewayResult is how a gateway is shown.
type gatewayResult struct {
	ID        string `json:"id"`
	IsDefault bool   `json:"is_default"`
	Settings
	AccountID  string    `json:"account_id"`
	CreatedAt  time.Time `json:"created_at"`
	ModifiedAt time.Time `json:"modified_at"`
}

func showGateway(g store.Gateway) (gatewayResult, error) {
	s, err := readSettings(g.Settings)
	return gatewayResult{ID: g.ID, IsDefault: g.ID == defaultGateway, Settings: s, AccountID: g.Account, CreatedAt: g.CreatedAt.UTC(),
		ModifiedAt: g.ModifiedAt.UTC()}, err
}

func answerGateway(g store.Gateway, err error) (*answer, error) {
	if err != nil {
		return nil, err
	}
	r, err := showGateway(g)
	return &answer{Result: r}, err
}

func (m *management) listGateways(c *call) (*answer, error) {
	page, perPage, found := c.page(100)
	if len(found) > 0 {
		return nil, invalidCall(found...)
	}
	list, total, err := m.db.Gateways(c.Context(), c.account, c.URL.Query().Get("search"), page, perPage)
	if err != nil {
		return nil, err
	}
	results := make([]gatewayResult, len(list))
	for i, g := range list {
		if results[i], err = showGateway(g); err != nil {
			return nil, err
		}
	}
	return &answer{Result: results, Info: infoOf(page, perPage, len(list), total)}, nil
}

func (m *management) createGateway(c *call) (*answer, error) {
	settings, found := ParseSettings(c.body, nil)
	var named struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(c.body, &named); err != nil || !gateway.Identifier(named.ID) {
		found = append(found, Problem{"id", "must be 1 to 64 of A-Z, a-z, 0-9, _ and -"})
	}
	if len(found) > 0 {
		return nil, invalidCall(found...)
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		return nil, err
	}
	g, err := m.db.CreateGateway(c.Context(), c.account, named.ID, raw)
	if err == nil {
		m.changed(c.account, g.ID)
	}
	return answerGateway(g, err)
}

// find returns the gateway of the path, so that what is below one that isn't there is not found, and not empty.
func (m *management) find(c *call) (store.Gateway, error) {
	return m.db.Gateway(c.Context(), c.account, c.gateway)
}

func (m *management) getGateway(c *call) (*answer, error) { return answerGateway(m.find(c)) }

func (m *management) updateGateway(c *call) (*answer, error) {
	g, err := m.find(c)
	if err != nil {
		return nil, err
	}
	old, err := readSettings(g.Settings)
	if err != nil {
		return nil, err
	}
	settings, found := ParseSettings(c.body, &old)
	if len(found) > 0 {
		return nil, invalidCall(found...)
	}
	raw, err := json.Marshal(settings)
	if err != nil {
		return nil, err
	}
	g, err = m.db.UpdateGateway(c.Context(), c.account, c.gateway, raw)
	if err == nil {
		m.changed(c.account, c.gateway)
	}
	return answerGateway(g, err)
}

func (m *management) deleteGateway(c *call) (*answer, error) {
	if _, err := m.find(c); err != nil {
		return nil, err
	}
	g, err := m.db.DeleteGateway(c.Context(), c.account, c.gateway)
	m.changed(c.account, c.gateway) // also when only its logs are left
	return answerGateway(g, err)
}

// getURL says where a provider is reached through the gateway; "universal" is the Universal Endpoint.
func (m *management) getURL(c *call) (*answer, error) {
	if _, err := m.find(c); err != nil {
		return nil, err
	}
	provider := c.PathValue("provider")
	if !knownProvider(provider) && provider != "universal" && provider != "compat" {
		return nil, invalidCall(Problem{"provider", "is not a provider of this server"})
	}
	base := strings.TrimRight(m.s.o.PublicURL, "/")
	if base == "" {
		base = "http://" + c.Host
		if c.TLS != nil {
			base = "https://" + c.Host
		}
	}
	u := base + "/v1/" + c.account + "/" + c.gateway
	if provider != "universal" {
		u += "/" + provider
	}
	return &answer{Result: u}, nil
}

// tokenResult is how a token is shown. The token itself is there once, when it is made.
type tokenResult struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Permissions []string  `json:"permissions"`
	CreatedAt   time.Time `json:"created_at"`
	Token       string    `json:"token,omitempty"`
}

func showToken(t store.GatewayToken) tokenResult {
	r := tokenResult{ID: t.ID.String(), Name: t.Name, Permissions: []string{}, CreatedAt: t.CreatedAt.UTC()}
	for _, p := range []struct {
		name string
		has  bool
	}{{"run", t.Run}, {"read", t.Read}, {"edit", t.Edit}} {
		if p.has {
			r.Permissions = append(r.Permissions, p.name)
		}
	}
	return r
}

func (m *management) listTokens(c *call) (*answer, error) {
	list, err := m.db.GatewayTokens(c.Context(), c.account)
	if err != nil {
		return nil, err
	}
	results := make([]tokenResult, len(list))
	for i, t := range list {
		results[i] = showToken(t)
	}
	return &answer{Result: results, Info: infoOf(1, max(len(list), 1), len(list), len(list))}, nil
}

// createToken makes a token for the account. It gives no permission that the caller's own token doesn't have.
func (m *management) createToken(c *call) (*answer, error) {
	var in struct {
		Name        string   `json:"name"`
		Permissions []string `json:"permissions"`
	}
	found := decodeFields(c.body, &in)
	if in.Name == "" || len(in.Name) > 200 || !isPlain(in.Name) {
		found = append(found, Problem{"name", "must be text of 1 to 200 bytes"})
	}
	if len(in.Permissions) == 0 {
		found = append(found, Problem{"permissions", "must hold run, read or edit"})
	}
	t := store.GatewayToken{Account: c.account, Name: in.Name}
	allowed := true
	for _, p := range in.Permissions {
		switch p {
		case "run":
			t.Run, allowed = true, allowed && c.token.Run
		case "read":
			t.Read, allowed = true, allowed && (c.token.Read || c.token.Edit)
		case "edit":
			t.Edit, allowed = true, allowed && c.token.Edit
		default:
			found = append(found, Problem{"permissions", "must hold only run, read and edit"})
		}
	}
	if len(found) > 0 {
		return nil, invalidCall(found...)
	}
	if !allowed {
		return nil, &fault{status: http.StatusForbidden, code: codeAuth, message: "a token can't give a permission that it doesn't have"}
	}
	token, hash := newToken()
	t, err := m.db.CreateGatewayToken(c.Context(), t, hash)
	if err != nil {
		return nil, err
	}
	r := showToken(t)
	r.Token = token
	return &answer{Result: r}, nil
}

func (m *management) deleteToken(c *call) (*answer, error) {
	id, err := c.id("id", "token")
	if err != nil {
		return nil, err
	}
	t, err := m.db.DeleteGatewayToken(c.Context(), c.account, id)
	if err != nil {
		return nil, err
	}
	m.changed(c.account, "")
	return &answer{Result: showToken(t)}, nil
}
