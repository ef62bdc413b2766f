package server

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestPatternsFindWhatTheySay(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name     string
		yes, not []string
	}{
		{"email", []string{"mail bob.o+x@mail.example.com now", "a@b.de"}, []string{"bob@", "@bob", "a@b"}},
		{"phone", []string{"+49 30 901820", "+1 (212) 555-0100", "call 212-555-0100", "(212) 555-0100"}, []string{"12345678", "2024-10-21", "1.2.3"}},
		{"credit_card", []string{"4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005"}, []string{"4111 1111 1111 1112", "0000 0000 0000 0000", "1234567"}},
		{"iban", []string{"DE89 3704 0044 0532 0130 00", "GB82WEST12345698765432", "IBAN DE89370400440532013000 AND MORE"}, []string{"DE88370400440532013000", "XX00", "DE8937040044053201300"}},
		{"us_ssn", []string{"ssn 123-45-6789."}, []string{"000-12-3456", "666-12-3456", "900-12-3456", "123-00-4567", "123-45-0000", "1123-45-67890"}},
		{"ipv4", []string{"10.0.0.1", "at 255.255.255.255:80"}, []string{"256.1.1.1", "1.2.3"}},
		{"aws_key", []string{"AKIAIOSFODNN7EXAMPLE"}, []string{"AKIAIOSFODNN7EXAMPL", "akiaiosfodnn7example"}},
		{"github_token", []string{"ghp_" + strings.Repeat("a1", 18), "github_pat_" + strings.Repeat("b_", 20)}, []string{"ghp_short"}},
		{"openai_key", []string{"sk-proj-" + strings.Repeat("x", 40), "sk-" + strings.Repeat("Z", 48)}, []string{"sk-short", "ask-me-anything-you-want-to-know-now"}},
		{"slack_token", []string{"xoxb-123456789012-abcdef"}, []string{"xoxz-1", "xox"}},
		{"private_key", []string{"-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----", "-----BEGIN PRIVATE KEY----- cut off"}, []string{"-----BEGIN PUBLIC KEY-----"}},
		{"jwt", []string{"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc-_"}, []string{"eyJhbGci", "eyJhbGciOiJIUzI1NiJ9.xyz.abc"}},
	}
	tested := map[string]bool{}
	for _, r := range rows {
		tested[r.name] = true
		p := builtinPatterns(r.name)[0]
		for _, s := range r.yes {
			if len(p.find([]byte(s))) != 1 {
				t.Errorf("%s finds %v in %q", r.name, p.find([]byte(s)), s)
			}
		}
		for _, s := range r.not {
			if len(p.find([]byte(s))) != 0 {
				t.Errorf("%s finds something in %q", r.name, s)
			}
		}
	}
	for _, p := range patterns {
		if !tested[p.name] {
			t.Errorf("no row for %s", p.name)
		}
	}
}

func maskAll(body string, events bool) string {
	d := parseDocument([]byte(body), events)
	hit := false
	for _, p := range patterns {
		hit = d.find(p, true) || hit
	}
	if !hit {
		return body
	}
	return string(d.masked())
}

func TestMaskLeavesTheRestAlone(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"a" : "bob@example.com", "n":1.0e2,"u":"\u00e9"}`: `{"a" : "[EMAIL]", "n":1.0e2,"u":"\u00e9"}`,
		`{"a":"x\u0040y: bob\u0040example.com \"q\""}`:      `{"a":"x@y: [EMAIL] \"q\""}`,
		`{"bob@example.com":"key stays"}`:                   `{"bob@example.com":"key stays"}`,
		`{"a":"{\"to\":\"bob@example.com\"}"}`:              `{"a":"{\"to\":\"[EMAIL]\"}"}`,
		`plain bob@example.com, 10.0.0.1`:                   `plain [EMAIL], [IPV4]`,
		`["4111 1111 1111 1111 and AKIAIOSFODNN7EXAMPLE"]`:  `["[CREDIT_CARD] and [AWS_KEY]"]`,
	} {
		if got := maskAll(in, false); got != want {
			t.Errorf("%s\n gives %s\n want  %s", in, got, want)
		}
	}
}

func TestMaskReachesAcrossEvents(t *testing.T) {
	t.Parallel()
	in := "data: {\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"write to bo\"}}]}\n\n" +
		"data: {\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"b@exam\"}}]}\r\n\r\n" +
		"data:{\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"ple.com now\"}}]}\n\ndata: [DONE]\n\n"
	want := "data: {\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"write to [EMAIL]\"}}]}\n\n" +
		"data: {\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\"\"}}]}\r\n\r\n" +
		"data:{\"id\":\"1\",\"choices\":[{\"delta\":{\"content\":\" now\"}}]}\n\ndata: [DONE]\n\n"
	if got := maskAll(in, true); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func FuzzMask(f *testing.F) {
	f.Add(`{"a":"bob@example.com","b":["10.0.0.1",{"c":"\ud800 x@y.zz"}]}`)
	f.Add(`[[[["a@b.cc"]]]]`)
	f.Add("data: {\"x\":\"a@b.cc\"}\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		got := maskAll(s, false)
		if json.Valid([]byte(s)) && !json.Valid([]byte(got)) {
			t.Fatalf("%q is masked into %q, which is no JSON", s, got)
		}
		if d := parseDocument([]byte(got), false); !d.raw {
			for _, p := range patterns {
				if p.name == "email" && d.find(p, false) {
					t.Fatalf("%q still holds an address: %q", s, got)
				}
			}
		}
		maskAll(s, true)
	})
}
