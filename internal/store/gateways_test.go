package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/uuid"

	"batchwright/internal/store"
	"batchwright/internal/store/storetest"
)

func newGateway(t testing.TB, db *store.DB, id string) store.Gateway {
	t.Helper()
	g, err := db.CreateGateway(t.Context(), "acc", id, json.RawMessage(`{"cache_ttl": 60}`))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func revision(t *testing.T, db *store.DB, id string) int64 {
	t.Helper()
	g, err := db.Gateway(t.Context(), "acc", id)
	if err != nil {
		t.Fatal(err)
	}
	return g.Revision
}

func TestGatewayRevisionGrowsWithAllThatBelongsToIt(t *testing.T) {
	t.Parallel()
	db, ctx := storetest.New(t), t.Context()
	last := newGateway(t, db, "gw").Revision
	other := newGateway(t, db, "other").Revision
	var key store.ProviderKey
	var route store.GatewayRoute
	var version store.GatewayRouteVersion
	var custom store.CustomProvider
	for _, step := range []struct {
		name string
		both bool // changes every gateway of the account
		do   func() error
	}{
		{"settings", false, func() error {
			_, err := db.UpdateGateway(ctx, "acc", "gw", json.RawMessage(`{}`))
			return err
		}},
		{"key", false, func() (err error) {
			key, err = db.SaveProviderKey(ctx, store.ProviderKey{Account: "acc", Gateway: "gw", Provider: "openai", Alias: "default", Default: true, Sealed: []byte{1}})
			return err
		}},
		{"key gone", false, func() error { return db.DeleteProviderKey(ctx, "acc", "gw", key.ID) }},
		{"route", false, func() (err error) {
			route, err = db.CreateGatewayRoute(ctx, "acc", "gw", "r", json.RawMessage(`[]`))
			return err
		}},
		{"route renamed", false, func() error {
			_, err := db.RenameGatewayRoute(ctx, "acc", "gw", route.ID, "r2")
			return err
		}},
		{"version deployed", false, func() (err error) {
			if version, err = db.SaveGatewayRouteVersion(ctx, "acc", "gw", route.ID, json.RawMessage(`[1]`), "c"); err != nil {
				return err
			}
			_, err = db.DeployGatewayRoute(ctx, "acc", "gw", route.ID, version.ID, "")
			return err
		}},
		{"route gone", false, func() error {
			_, err := db.DeleteGatewayRoute(ctx, "acc", "gw", route.ID)
			return err
		}},
		{"custom provider", true, func() (err error) {
			custom, err = db.CreateCustomProvider(ctx, store.CustomProvider{Account: "acc", Name: "n", Slug: "s", BaseURL: "https://x", Enable: true})
			return err
		}},
		{"custom provider changed", true, func() error {
			custom.Enable = false
			_, err := db.UpdateCustomProvider(ctx, custom)
			return err
		}},
		{"custom provider gone", true, func() error {
			_, err := db.DeleteCustomProvider(ctx, "acc", custom.ID)
			return err
		}},
		{"made again", false, func() error {
			if _, err := db.DeleteGateway(ctx, "acc", "gw"); err != nil {
				return err
			}
			newGateway(t, db, "gw")
			return nil
		}},
	} {
		if err := step.do(); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		now, others := revision(t, db, "gw"), revision(t, db, "other")
		if now <= last {
			t.Errorf("%s: revision %d after %d", step.name, now, last)
		}
		if (others > other) != step.both {
			t.Errorf("%s: the other gateway's revision is %d after %d", step.name, others, other)
		}
		last, other = now, others
	}
}

func TestDeletedGatewayLeavesNothing(t *testing.T) {
	t.Parallel()
	url := storetest.URL(t)
	db, err := store.Open(t.Context(), url, store.Options{MaxConns: 4})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := t.Context()
	newGateway(t, db, "gw")
	newGateway(t, db, "kept")
	if _, err := db.SaveProviderKey(ctx, store.ProviderKey{Account: "acc", Gateway: "gw", Provider: "openai", Alias: "a", Sealed: []byte{1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := db.CreateGatewayRoute(ctx, "acc", "gw", "r", json.RawMessage(`[]`)); err != nil {
		t.Fatal(err)
	}
	if err := db.InsertGatewayLogs(ctx, append(someLogs("gw", 20), someLogs("kept", 3)...)); err != nil {
		t.Fatal(err)
	}
	if _, err := db.DeleteGateway(ctx, "acc", "gw"); err != nil {
		t.Fatal(err)
	}
	for table, want := range map[string]int{"gateways": 1, "provider_keys": 0, "gateway_routes": 0, "gateway_route_versions": 0, "gateway_route_deployments": 0,
		"gateway_logs": 3, "gateway_log_bodies": 3} {
		if got := storetest.Scalar[int](t, url, "select count(*) from "+table); got != want {
			t.Errorf("%s has %d rows, want %d", table, got, want)
		}
	}
	if _, err := db.DeleteGateway(ctx, "acc", "gw"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("deleted twice: %v", err)
	}
	if _, err := db.Gateway(ctx, "other", "kept"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another account's: %v", err)
	}
}

func TestOneDefaultKeyAProvider(t *testing.T) {
	t.Parallel()
	db, ctx := storetest.New(t), t.Context()
	newGateway(t, db, "gw")
	save := func(provider, alias string, isDefault bool, sealed byte) store.ProviderKey {
		t.Helper()
		k, err := db.SaveProviderKey(ctx, store.ProviderKey{Account: "acc", Gateway: "gw", Provider: provider, Alias: alias, Default: isDefault, Sealed: []byte{sealed}})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := save("openai", "a", true, 1)
	save("anthropic", "a", true, 2)
	save("openai", "b", true, 3)
	again := save("openai", "a", false, 4)
	if again.ID != first.ID || again.Sealed[0] != 4 {
		t.Errorf("saving under the same alias made %+v of %+v", again, first)
	}
	keys, err := db.ProviderKeys(ctx, "acc", "gw")
	got := ""
	for _, k := range keys {
		got += fmt.Sprint(k.Provider, "/", k.Alias, " ", k.Default, " ")
	}
	if want := "anthropic/a true openai/b true openai/a false "; err != nil || got != want {
		t.Errorf("keys %s, want %s, %v", got, want, err)
	}
	if _, err := db.SaveProviderKey(ctx, store.ProviderKey{Account: "acc", Gateway: "none", Provider: "p", Alias: "a", Sealed: []byte{1}}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a key of no gateway: %v", err)
	}
}

func TestGatewayTokens(t *testing.T) {
	t.Parallel()
	db, ctx := storetest.New(t), t.Context()
	hash := make([]byte, 32)
	made, err := db.CreateGatewayToken(ctx, store.GatewayToken{Account: "acc", Name: "n", Run: true}, hash)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := db.GatewayTokenByHash(ctx, hash); err != nil || got != made || !got.Run || got.Edit || got.Account != "acc" {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := db.CreateGatewayToken(ctx, store.GatewayToken{Account: "acc"}, hash); !errors.Is(err, store.ErrConflict) {
		t.Errorf("same hash: %v", err)
	}
	if _, err := db.DeleteGatewayToken(ctx, "other", made.ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another account's: %v", err)
	}
	if list, err := db.GatewayTokens(ctx, "acc"); err != nil || len(list) != 1 {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := db.DeleteGatewayToken(ctx, "acc", made.ID); err != nil {
		t.Error(err)
	}
	if _, err := db.GatewayTokenByHash(ctx, hash); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("revoked: %v", err)
	}
}

func TestGatewaySearchIsLiteral(t *testing.T) {
	t.Parallel()
	db, ctx := storetest.New(t), t.Context()
	for _, id := range []string{"a_b", "axb", "A_Bc"} {
		newGateway(t, db, id)
	}
	list, total, err := db.Gateways(ctx, "acc", "a_b", 1, 10)
	if err != nil || total != 2 || len(list) != 2 {
		t.Errorf("%d of %d, %v", len(list), total, err)
	}
	if list, total, err = db.Gateways(ctx, "acc", "", 2, 2); err != nil || total != 3 || len(list) != 1 {
		t.Errorf("%d of %d, %v", len(list), total, err)
	}
}

// TestOneVersionIsLive deploys from several sides at once: in the end the route's version is that of its latest deployment.
func TestOneVersionIsLive(t *testing.T) {
	t.Parallel()
	db, ctx := storetest.New(t), t.Context()
	newGateway(t, db, "gw")
	route, err := db.CreateGatewayRoute(ctx, "acc", "gw", "r", json.RawMessage(`["first"]`))
	if err != nil {
		t.Fatal(err)
	}
	versions := []uuid.UUID{route.VersionID}
	for range 3 {
		v, err := db.SaveGatewayRouteVersion(ctx, "acc", "gw", route.ID, json.RawMessage(`["next"]`), "")
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, v.ID)
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if _, err := db.DeployGatewayRoute(ctx, "acc", "gw", route.ID, versions[i%len(versions)], ""); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	list, err := db.GatewayRouteVersions(ctx, "acc", "gw", route.ID)
	if err != nil {
		t.Fatal(err)
	}
	active := 0
	live, err := db.GatewayRoute(ctx, "acc", "gw", route.ID)
	for _, v := range list {
		if v.Active {
			active++
			if v.ID != live.VersionID || string(v.Elements) != string(live.Elements) {
				t.Errorf("version %s is active, %s is live", v.ID, live.VersionID)
			}
		}
	}
	if active != 1 || err != nil {
		t.Errorf("%d versions are active, %v", active, err)
	}
	if deployments, err := db.GatewayRouteDeployments(ctx, "acc", "gw", route.ID); err != nil || len(deployments) != 17 {
		t.Errorf("%d deployments, %v", len(deployments), err)
	}
}
