package registry

// Severity says how bad a diagnostic is.
type Severity string

// The severities. With an error something that a registry said is left out or not yet known; with a warning
// everything is used, but a person should look.
const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Diagnostic is one thing that is wrong with what a registry says. It is a plain value.
type Diagnostic struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"`             // "W4101"; Explain knows it
	Summary  string   `json:"summary"`          // one line, no full stop
	Detail   string   `json:"detail,omitempty"` // what to do about it
	Source   string   `json:"source,omitempty"` // the registry that said it
	Origin   string   `json:"origin,omitempty"` // "file:line:column" or another place a person can look
	Excerpt  Excerpt  `json:"excerpt,omitzero"` // of the file that Origin names
}

// Excerpt is the line of a file that a diagnostic is about. The zero value: there is none.
type Excerpt struct {
	Line   int    `json:"line"`             // from 1, as in the diagnostic's Origin
	Column int    `json:"column,omitempty"` // from 1, likewise; zero: the whole line is meant
	Length int    `json:"length,omitempty"` // characters that are meant, from Column
	Text   string `json:"text"`             // the line; a part of it if it is very long
	// TextColumn is the column that Text begins at; zero means 1.
	TextColumn int `json:"text_column,omitempty"`
}

// String returns the diagnostic on one line.
func (d Diagnostic) String() string {
	s := string(d.Severity) + " " + d.Code + ": " + d.Summary
	if d.Source != "" {
		s = "registry " + d.Source + ": " + s
	}
	if d.Origin != "" {
		s = d.Origin + ": " + s
	}
	return s
}
