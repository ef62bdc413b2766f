package server

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

func TestLogFilters(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	logs := d.seed()
	for _, c := range []struct{ filter, want string }{
		{``, "4321"},
		{`{"key":"provider","operator":"eq","value":["openai"]}`, "431"},
		{`{"key":"provider","operator":"eq","value":["openai","anthropic"]}`, "4321"},
		{`{"key":"provider","operator":"neq","value":["openai"]}`, "2"},
		{`{"key":"model","operator":"contains","value":["GPT"]}`, "31"},
		{`{"key":"model_type","operator":"eq","value":["embeddings"]}`, "4"},
		{`{"key":"success","operator":"eq","value":[false]}`, "3"},
		{`{"key":"cached","operator":"eq","value":["true"]}`, "2"},
		{`{"key":"cost","operator":"gt","value":[0.001]}`, "1"},
		{`{"key":"cost","operator":"lt","value":[0.001]}`, "42"},
		{`{"key":"cost","operator":"neq","value":[0]}`, "431"}, // unknown is not 0
		{`{"key":"tokens","operator":"gt","value":[54]},{"key":"tokens","operator":"lt","value":["1000"]}`, "21"},
		{`{"key":"tokens_in","operator":"gt","value":[99]}`, "41"},
		{`{"key":"tokens_in","operator":"gt","value":[0,100,99]}`, "4"},
		{`{"key":"tokens_in","operator":"lt","value":[1000,60]}`, "32"},
		{`{"key":"created_at","operator":"lt","value":["2026-11-20T13:00:00Z","2026-11-20T12:01:00Z"]}`, "1"},
		{`{"key":"tokens_out","operator":"eq","value":[5,10]}`, "21"},
		{`{"key":"duration","operator":"gt","value":[299.5]}`, "31"},
		{`{"key":"event_id","operator":"eq","value":["row-2"]}`, "2"},
		{`{"key":"metadata.key","operator":"eq","value":["team"]}`, "21"},
		{`{"key":"metadata.key","operator":"neq","value":["n"]}`, "432"},
		{`{"key":"metadata.value","operator":"eq","value":["red",7]}`, "21"},
		{`{"key":"metadata.value","operator":"contains","value":["LU"]}`, "1"},
		{`{"key":"authentication","operator":"eq","value":[true]}`, "1"},
		{`{"key":"wholesale","operator":"eq","value":[true]}`, ""},
		{`{"key":"compatibilityMode","operator":"eq","value":[true]}`, "3"},
		{`{"key":"dlp_action","operator":"eq","value":["FLAG"]}`, "2"},
		{`{"key":"user_agent","operator":"contains","value":["pyth"]}`, "1"},
		{`{"key":"created_at","operator":"gt","value":["2026-11-20T12:01:30Z"]}`, "43"},
		{`{"key":"id","operator":"eq","value":["` + logs[2].ID.String() + `"]}`, "3"},
		{`{"key":"id","operator":"contains","value":["` + logs[2].ID.String()[30:] + `"]}`, "3"},
		{`{"key":"feedback","operator":"neq","value":[0]}`, "4321"},
		{`{"key":"request_content_type","operator":"contains","value":["json"]}`, "1"},
	} {
		a := d.do(200, "GET", "/gateways/gw/logs?filters="+url.QueryEscape("["+c.filter+"]"), "")
		if got := rowsOf(t, a); got != c.want || a.Info["total_count"] != float64(len(c.want)) {
			t.Errorf("%s: rows %q of %v, want %q", c.filter, got, a.Info["total_count"], c.want)
		}
	}
	for query, want := range map[string]string{
		"filters.key=provider&filters.operator=eq&filters.value=openai&filters.key=success&filters.operator=eq&filters.value=true": "41",
		"start_date=2026-11-20T12:01:00Z&end_date=2026-11-20T12:02:00Z":                                                            "32",
		"success=true&provider=openai":     "41",
		"min_cost=0.0000005&max_cost=0.01": "41", "min_total_tokens=55&max_total_tokens=110": "21", "cached=false&model=embed": "4",
		"search=CLAUDE": "2", "search=blue": "1",
	} {
		if got := rowsOf(t, d.do(200, "GET", "/gateways/gw/logs?"+query, "")); got != want {
			t.Errorf("%s: rows %q, want %q", query, got, want)
		}
	}
	for _, bad := range []string{`filters=nonsense`, `filters=[{"key":"colour","operator":"eq","value":["x"]}]`, `filters=[{"key":"model","operator":"lt","value":["x"]}]`,
		`filters=[{"key":"cost","operator":"gt","value":["x"]}]`, `filters=[{"key":"cost","operator":"gt","value":[]}]`, `filters=[{"key":"cost","operator":"gt","value":[1e300]}]`,
		`filters=[{"key":"model","operator":"like","value":["x"]}]`, `filters=[{"key":"id","operator":"eq","value":["x"]}]`, `filters=[{"key":"model","operator":"eq","value":[{}]}]`,
		`filters=[{"key":"model","operator":"eq"}]`, `filters=[{"key":"success","operator":"eq","value":["maybe"]}]`, `filtres=[]`, `order_by=path`, `order_by_direction=up`,
		`start_date=yesterday`, `filters.key=model`, `filters.keys=x`, "per_page=1001", "search=\x00"} {
		name, value, _ := strings.Cut(bad, "=")
		if a := d.do(400, "GET", "/gateways/gw/logs?"+name+"="+url.QueryEscape(value), ""); a.Errors[0].Code != 7000 {
			t.Errorf("%s: %s", bad, a.raw)
		}
	}
}

func TestLogOrderPageAndTotals(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.seed()
	for query, want := range map[string]string{
		"order_by=created_at&order_by_direction=asc": "1234", "order_by=provider&order_by_direction=asc": "2134", "order_by=model": "1342",
		"order_by=success": "4213", "order_by=cached&order_by_direction=asc": "1342", "order_by=model_type": "4321", "direction=asc": "1234",
		"order_by=cost": "1423", "order_by=duration&order_by_direction=asc": "2431",
		"per_page=3": "432", "per_page=3&page=2": "1", "per_page=3&page=3": "",
	} {
		if got := rowsOf(t, d.do(200, "GET", "/gateways/gw/logs?"+query, "")); got != want {
			t.Errorf("%s: rows %q, want %q", query, got, want)
		}
	}
	a := d.do(200, "GET", "/gateways/gw/logs?per_page=3&page=2", "")
	for key, want := range map[string]float64{"count": 1, "total_count": 4, "page": 2, "per_page": 3, "min_cost": 0, "max_cost": 0.002, "min_duration": 20,
		"max_duration": 1500, "min_tokens_in": 0, "max_tokens_in": 1000, "min_tokens_out": 0, "max_tokens_out": 10, "min_total_tokens": 0, "max_total_tokens": 1000} {
		if a.Info[key] != want {
			t.Errorf("%s is %v, want %v", key, a.Info[key], want)
		}
	}
	a = d.do(200, "GET", "/gateways/gw/logs?provider=nobody", "")
	if rowsOf(t, a) != "" || string(a.Result) != "[]" || a.Info["min_cost"] != nil || a.Info["total_count"] != 0.0 {
		t.Errorf("nothing found: %s", a.raw)
	}
}

func TestOneLogAndItsBodies(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	logs := d.seed()
	at := func(i int) string { return "/gateways/gw/logs/" + logs[i].ID.String() }
	one := into[logDetail](t, d.do(200, "GET", at(0), "").Result)
	if one.Cost == nil || *one.Cost != 0.002 || one.Duration != 1500 || one.Metadata != `{"n": 7, "team": "blue"}` || one.RequestHead != `{"q":1}` || !one.RequestHeadComplete ||
		one.ResponseHead != `{"a":1}` || one.RequestSize != 7 || !one.Authentication {
		t.Errorf("log %+v", one)
	}
	none := into[logDetail](t, d.do(200, "GET", at(2), "").Result)
	if none.Cost != nil || none.Metadata != "" || none.RequestHead != "" || none.RequestHeadComplete {
		t.Errorf("log %+v", none)
	}
	long := into[logDetail](t, d.do(200, "GET", at(3), "").Result)
	if long.RequestHead != strings.Repeat("é", headBytes/2) || long.RequestHeadComplete || long.ResponseHead != "" {
		t.Errorf("%d bytes of head, complete %v, answer %q", len(long.RequestHead), long.RequestHeadComplete, long.ResponseHead)
	}
	a := d.do(200, "GET", at(0)+"/request", "")
	if a.raw != `{"q":1}` || a.header.Get("Content-Type") != "application/json" || a.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("request %q %v", a.raw, a.header)
	}
	if a := d.do(200, "GET", at(3)+"/response", ""); a.raw != "\xff\xfe" || a.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("response %q", a.raw)
	}
	d.do(404, "GET", at(2)+"/request", "")
	d.do(404, "GET", "/gateways/other/logs/"+logs[0].ID.String(), "")
}

func TestPatchLog(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	path := "/gateways/gw/logs/" + d.seed()[0].ID.String()
	for _, c := range []struct{ body, feedback, score, metadata string }{
		{`{"feedback":1}`, "1", "-", `{"n": 7, "team": "blue"}`},
		{`{"score":0.5}`, "1", "0.5", `{"n": 7, "team": "blue"}`},
		{`{"feedback":-1,"metadata":{"a":true}}`, "-1", "0.5", `{"a": true}`},
		{`{}`, "-1", "0.5", `{"a": true}`},
		{`{"feedback":null,"score":null,"metadata":null}`, "-", "-", ""},
		{`{"metadata":{"text":"\u0000\ud800 is mended","huge":1}}`, "-", "-", "{\"huge\": 1, \"text\": \"\uFFFD is mended\"}"},
	} {
		r := into[logResult](t, d.do(200, "PATCH", path, c.body).Result)
		feedback, score := "-", "-"
		if r.Feedback != nil {
			feedback = fmt.Sprint(*r.Feedback)
		}
		if r.Score != nil {
			score = fmt.Sprint(*r.Score)
		}
		if feedback != c.feedback || score != c.score || r.Metadata != c.metadata {
			t.Errorf("%s: %s %s %q", c.body, feedback, score, r.Metadata)
		}
	}
	for _, bad := range []string{`{"feedback":0}`, `{"feedback":"1"}`, `{"score":"x"}`, `{"metadata":{"a":{}}}`, `{"metadata":[1]}`,
		`{"metadata":{"1":1,"2":1,"3":1,"4":1,"5":1,"6":1}}`, `{"cost":1}`, `nonsense`} {
		d.do(400, "PATCH", path, bad)
	}
	d.do(404, "PATCH", "/gateways/gw/logs/00000000-0000-7000-8000-000000000000", `{"feedback":1}`)
}

func TestDeleteLogs(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	logs := d.seed()
	// What is left out or misspelt must not delete everything.
	for _, query := range []string{"", "?filter=x", "?limit=0", "?limit=x", "?filters=[]", "?page=1&limit=1"} {
		d.do(400, "DELETE", "/gateways/gw/logs"+query, "")
	}
	a := d.do(200, "DELETE", "/gateways/gw/logs?limit=1&order_by=cost&order_by_direction=desc", "")
	if got := into[map[string]int](t, a.Result)["deleted"]; got != 1 {
		t.Errorf("deleted %d", got)
	}
	if got := rowsOf(t, d.do(200, "GET", "/gateways/gw/logs", "")); got != "432" {
		t.Errorf("left %q", got)
	}
	d.do(404, "GET", "/gateways/gw/logs/"+logs[0].ID.String()+"/request", "")
	d.do(200, "DELETE", "/gateways/gw/logs?filters="+url.QueryEscape(`[{"key":"success","operator":"eq","value":[true]}]`), "")
	if got := rowsOf(t, d.do(200, "GET", "/gateways/gw/logs", "")); got != "3" {
		t.Errorf("left %q", got)
	}
}
