//go:build race

package extract

// race says that this program is built with the race detector, whose own memory is beyond any limit worth setting.
const race = true
