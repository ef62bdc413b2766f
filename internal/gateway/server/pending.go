package server

import "net/http"

func (s *Server) manage() http.Handler { return http.NotFoundHandler() }

type route struct{}

func parseRoute([]byte) (*route, []Problem) { return &route{}, nil }

type routed struct{}

func (r *routed) decorate(http.Header, *step) {}
func (r *routed) last() bool                  { return true }
func (c *passage) routed() *step              { return nil }

const dynamicPrefix = "dynamic/"

func (c *passage) dynamic(name string) *refusal { return unroutable("no routes yet") }
