package api_test

import (
	"context"
	"encoding/csv"
	"errors"
	"iter"
	"strings"
	"testing"

	"github.com/google/uuid"

	"batchwright/internal/api"
	"batchwright/internal/store"
)

// reporting is a fake that notes what it is asked for and answers with rows.
type reporting struct {
	*fake
	sql  string
	args []any
	rows [][][]byte
	err  error
}

func (f *reporting) Raw(_ context.Context, sql string, args ...any) iter.Seq2[[][]byte, error] {
	f.sql, f.args = sql, args
	return func(yield func([][]byte, error) bool) {
		for _, r := range f.rows {
			if !yield(r, nil) {
				return
			}
		}
		if f.err != nil {
			yield(nil, f.err)
		}
	}
}

func (f *reporting) ExportResults(ctx context.Context, batch uuid.UUID, state string, from, to int32) iter.Seq2[[][]byte, error] {
	return f.Raw(ctx, "export", batch, state, from, to)
}

func newReporting(t *testing.T, rows ...[][]byte) (*reporting, *testAPI) {
	f := &reporting{fake: &fake{batches: []store.Batch{someBatch()}}, rows: rows}
	return f, newAPI(t, f.fake, func(s *api.Server) { s.Read = f })
}

func TestReportsAreListedWithTheirColumns(t *testing.T) {
	t.Parallel()
	_, a := newReporting(t)
	list := into[api.ReportList](t, a.do(t, call{path: "/v1/reports"}), 200)
	for _, r := range list.Data {
		if r.Name == "daily_costs" && r.Grouped && *r.TimeColumn == "day" && r.Columns[0] == (api.ReportColumn{Name: "day", Type: "date"}) {
			return
		}
	}
	t.Errorf("no daily_costs in %+v", list)
}

func TestAReportIsOfTheCallersProjectAndInEachFormat(t *testing.T) {
	t.Parallel()
	f, a := newReporting(t, [][]byte{[]byte("m1"), []byte("2")}, [][]byte{[]byte("=m2"), []byte("3")})
	path := "/v1/reports/failures?by=model&from=2026-12-01&where=scope%3Djob&where=failures%3E1&sort=-failures,model"
	if w := a.do(t, call{path: path}); w.Code != 200 || w.Body.String() != `{"rows":[{"model":"m1","failures":2},{"model":"=m2","failures":3}],"more":false}`+"\n" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if f.args[0] != project.ID || len(f.args) != 4 || !strings.Contains(f.sql, "group by model") || !strings.Contains(f.sql, "limit 1001") {
		t.Errorf("%s\n%v", f.sql, f.args)
	}
	w := a.do(t, call{path: path + "&format=csv&bom=true&limit=1"})
	if rows, err := csv.NewReader(w.Body).ReadAll(); err != nil || len(rows) != 2 || rows[0][0] != "\ufeffmodel" || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/csv") {
		t.Errorf("%v %v %v", rows, err, w.Header())
	}
	if w := a.do(t, call{path: path + "&format=ndjson"}); w.Body.String() != `{"model":"m1","failures":2}`+"\n"+`{"model":"=m2","failures":3}`+"\n" {
		t.Errorf("%s", w.Body)
	}
}

func TestWrongReportsAreRefused(t *testing.T) {
	t.Parallel()
	f, a := newReporting(t)
	if p := into[api.Problem](t, a.do(t, call{path: "/v1/reports/daily"}), 404); !strings.Contains(p.Detail, "daily_costs") {
		t.Error(p.Detail)
	}
	for query, field := range map[string]string{"by=secret": "by", "where=x": "where", "sort=x": "sort", "from=x": "from", "format=xml": "format"} {
		p := into[api.Problem](t, a.do(t, call{path: "/v1/reports/daily_costs?" + query}), 400)
		if len(p.Errors) != 1 || p.Errors[0].Field != field || f.sql != "" {
			t.Errorf("%s: %+v", query, p)
		}
	}
	f.err = errors.New("down")
	into[api.Problem](t, a.do(t, call{path: "/v1/reports/daily_costs"}), 500)
}

func TestABatchIsExportedByRange(t *testing.T) {
	t.Parallel()
	f, a := newReporting(t)
	path := "/v1/batches/" + f.batches[0].ID.String() + "/export"
	w := a.do(t, call{path: path + "?format=csv&from=3&to=9&status=failed"})
	if w.Code != 200 || !strings.HasPrefix(w.Body.String(), "index,custom_id,job_id,status") || f.args[1] != "failed" || f.args[2] != int32(3) || f.args[3] != int32(9) {
		t.Errorf("%d %s %v", w.Code, w.Body, f.args)
	}
	for query, field := range map[string]string{"?format=json": "format", "?format=xls": "format", "?from=5&to=4": "to"} {
		if p := into[api.Problem](t, a.do(t, call{path: path + query}), 400); len(p.Errors) != 1 || p.Errors[0].Field != field {
			t.Errorf("%s: %+v", query, p)
		}
	}
	into[api.Problem](t, a.do(t, call{path: "/v1/batches/" + uuid.NewString() + "/export"}), 404)
}
