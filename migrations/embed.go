// Package migrations embeds the goose files, so that binaries and tests migrate from the same bytes.
package migrations

import "embed"

// FS holds every numbered .sql file of this folder.
//
//go:embed *.sql
var FS embed.FS
