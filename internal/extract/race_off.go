//go:build !race

package extract

const race = false
