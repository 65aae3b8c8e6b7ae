package configs

// Code explains a diagnostic code.
type Code struct {
	Code    string `json:"code"`
	Title   string `json:"title"`
	Explain string `json:"explain"`
}

// Explain returns the explanation of a code, and false if there is no such code.
func Explain(code string) (Code, bool) { return Code{}, false }

// Codes returns all codes in order.
func Codes() []Code { return nil }
