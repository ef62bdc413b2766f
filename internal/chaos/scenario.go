package chaos

// scenarios are runs with a name: each once showed a fault, or is one that must never show.
var scenarios = map[string]func(*plan){}
