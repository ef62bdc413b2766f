package bucket

import (
	"path"
	"strings"
)

// Locate says what a URL means without opening anything: the place that it lies in, one text for all URLs of one place, and the key that
// [Places.Open] would give. A pattern that [Bucket.List] would refuse is refused. Errors are *[Error].
func (p Places) Locate(raw string) (place, key string, err error) {
	at, full, err := p.find(raw)
	if err != nil {
		return "", "", err
	}
	if _, err := path.Match(full, ""); err != nil {
		return "", "", refuse("is no pattern: a [ lacks its ]")
	}
	if at.scheme == "file" {
		return at.String(), strings.TrimPrefix(full, at.prefix), nil
	}
	return at.String(), strings.TrimPrefix(full, "/"), nil
}

// IsPattern reports whether a key stands for objects to be listed, and not for one of that name.
func IsPattern(key string) bool {
	return key == "" || strings.HasSuffix(key, "/") || strings.ContainsAny(key, "*?[")
}

// Match reports whether [Bucket.List] would yield a key for a pattern.
func Match(pattern, key string) bool {
	if pattern == "" || strings.HasSuffix(pattern, "/") {
		pattern += "**"
	}
	return matches(strings.Split(pattern, "/"), strings.Split(key, "/"))
}
