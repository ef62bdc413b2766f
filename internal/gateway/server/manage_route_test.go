package server

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestRoutesHaveVersionsAndDeployments(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.do(200, "POST", "/gateways", plainGateway)
	const base = "/gateways/gw/routes"
	made := into[routeResult](t, d.do(200, "POST", base, `{"name":"main","elements":`+guideForm+`}`).Result)
	if made.Version.Active != "true" || made.Deployment.VersionID != made.Version.VersionID || made.GatewayID != "gw" || made.AccountTag != "acc" {
		t.Errorf("made %+v", made)
	}
	d.do(409, "POST", base, `{"name":"main","elements":`+guideForm+`}`)
	d.do(404, "POST", "/gateways/none/routes", `{"name":"main","elements":`+guideForm+`}`)
	if a := d.do(400, "POST", base, `{"name":"a b","elements":[{"id":"s","type":"start"}]}`); len(a.Errors) < 2 {
		t.Errorf("problems %s", a.raw)
	}
	at := base + "/" + made.ID
	second := into[versionDetail](t, d.do(200, "POST", at+"/versions", `{"comment":"faster","elements":`+apiForm()+`}`).Result)
	if second.Active != "false" || second.Comment != "faster" {
		t.Errorf("version %+v", second)
	}
	live := func() string {
		t.Helper()
		routes, err := d.db.DeployedRoutes(t.Context(), "acc", "gw")
		if err != nil || len(routes) != 1 {
			t.Fatalf("%d routes, %v", len(routes), err)
		}
		return routes[0].VersionID.String()
	}
	if live() != made.Version.VersionID {
		t.Error("a version went live before it was deployed")
	}
	before, err := d.db.Gateway(t.Context(), "acc", "gw")
	if err != nil {
		t.Fatal(err)
	}
	d.do(200, "POST", at+"/deployments", `{"version_id":"`+second.VersionID+`","comment":"go"}`)
	after, err := d.db.Gateway(t.Context(), "acc", "gw")
	if err != nil || after.Revision <= before.Revision || live() != second.VersionID {
		t.Errorf("revision %d after %d, live %s, %v", after.Revision, before.Revision, live(), err)
	}
	versions := d.do(200, "GET", at+"/versions", "")
	list := into[struct{ Versions []versionResult }](t, versions.Data).Versions
	if len(list) != 2 || list[0].VersionID != second.VersionID || list[0].Active != "true" || list[1].Active != "false" || !json.Valid([]byte(list[1].Data)) {
		t.Errorf("versions %s", versions.raw)
	}
	if got := into[versionDetail](t, d.do(200, "GET", at+"/versions/"+made.Version.VersionID, "").Result); string(got.Elements) == "" || got.ID != made.ID {
		t.Errorf("version %+v", got)
	}
	deployments := into[struct{ Deployments []deploymentResult }](t, d.do(200, "GET", at+"/deployments", "").Data).Deployments
	if len(deployments) != 2 || deployments[0].Comment != "go" || deployments[1].VersionID != made.Version.VersionID {
		t.Errorf("deployments %+v", deployments)
	}
	renamed := d.do(200, "PATCH", at, `{"name":"other"}`)
	if into[routeResult](t, renamed.Route).Name != "other" || into[routeResult](t, renamed.Result).Name != "other" {
		t.Errorf("renamed %s", renamed.raw)
	}
	routes := d.do(200, "GET", base, "")
	if l := into[struct{ Routes []routeResult }](t, routes.Data).Routes; len(l) != 1 || l[0].Name != "other" || l[0].Version.VersionID != second.VersionID {
		t.Errorf("routes %s", routes.raw)
	}
	other := into[routeResult](t, d.do(200, "POST", base, `{"name":"main","elements":`+guideForm+`}`).Result)
	d.do(409, "PATCH", at, `{"name":"main"}`)
	d.do(404, "POST", at+"/deployments", `{"version_id":"`+other.Version.VersionID+`"}`) // another route's
	d.do(400, "POST", at+"/deployments", `{"version_id":"latest"}`)
	d.do(400, "POST", at+"/versions", `{"elements":[]}`)
	d.do(400, "POST", at+"/versions", `{"comment":"`+strings.Repeat("x", maxComment+1)+`","elements":`+guideForm+`}`)
	d.do(200, "DELETE", at, "")
	for _, path := range []string{at, at + "/versions", at + "/deployments", at + "/versions/" + second.VersionID} {
		d.do(404, "GET", path, "")
	}
	d.do(200, "DELETE", base+"/"+other.ID, "")
	if a := d.do(200, "GET", base, ""); !strings.Contains(a.raw, `"routes":[]`) || string(a.Result) != "[]" {
		t.Errorf("empty list %s", a.raw)
	}
}
