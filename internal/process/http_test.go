package process_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// httpServer is a provider outside of us.
func httpServer(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}
