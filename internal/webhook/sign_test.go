package webhook

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// TestSignatureOfTheSpecification holds sign against the vector that the Standard Webhooks libraries are tested with.
func TestSignatureOfTheSpecification(t *testing.T) {
	t.Parallel()
	secret, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := sign([][]byte{secret}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("signature %s, want %s", got, want)
	}
}

func TestSecretsAreTheirEndpointsOwn(t *testing.T) {
	t.Parallel()
	key, other := []byte(strings.Repeat("k", 32)), []byte(strings.Repeat("o", 32))
	id := uuid.MustParse("01990000-0000-7000-8000-000000000001")
	seen := map[string]bool{}
	if got, want := Secret(key, id, 1), Secret(key, uuid.MustParse(id.String()), 1); got != want { // each process derives it for itself
		t.Errorf("secret %s and then %s", got, want)
	}
	for _, s := range []string{Secret(key, id, 1), Secret(key, id, 2), Secret(key, uuid.New(), 1), Secret(other, id, 1)} {
		raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(s, "whsec_"))
		if err != nil || len(raw) != 32 || !strings.HasPrefix(s, "whsec_") || seen[s] {
			t.Errorf("secret %s (%d bytes, %v) of %d", s, len(raw), err, len(seen))
		}
		seen[s] = true
	}
}
