package mesh

// state is what a view remembers of its inputs, and the inverted indexes over them. Immutable.
type state struct{}
