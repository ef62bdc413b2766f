package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// MinKey is the least length of the key that secrets are derived from, in bytes.
const MinKey = 32

// Secret returns an endpoint's secret, in the form in which users are given it.
func Secret(key []byte, id uuid.UUID, version int32) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(derive(key, id, version))
}

func derive(key []byte, id uuid.UUID, version int32) []byte {
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s|%d", id, version)
	return m.Sum(nil)
}

// sign returns the header webhook-signature: one signature for each secret, the newest first.
func sign(secrets [][]byte, id string, at time.Time, body []byte) string {
	all := ""
	for i, secret := range secrets {
		m := hmac.New(sha256.New, secret)
		fmt.Fprintf(m, "%s.%d.", id, at.Unix())
		m.Write(body)
		if i > 0 {
			all += " "
		}
		all += "v1," + base64.StdEncoding.EncodeToString(m.Sum(nil))
	}
	return all
}
