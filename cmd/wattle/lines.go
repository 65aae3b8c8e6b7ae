package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/fatih/color"
)

// The width of the names before the lines grows with the names, within these bounds, in characters.
const (
	minName = 9
	maxName = 28
)

// lines interleaves the output of many processes, whole lines at a time, each with its process's name before it. Its
// methods may be called from any goroutine.
type lines struct {
	terminal bool   // control characters are shown, not obeyed
	color    bool   // names are
	gone     func() // called when nobody reads the lines any more; nil: nobody wants to know

	mu    sync.Mutex
	w     io.Writer
	width int
	seen  map[string]*color.Color
}

func newLines(w io.Writer, gone func()) *lines {
	return &lines{w: w, terminal: terminal(w), color: colored(w), gone: gone, width: minName, seen: map[string]*color.Color{}}
}

// palette holds the colours that names take in turn.
func palette(i int) *color.Color {
	all := []color.Attribute{
		color.FgCyan, color.FgGreen, color.FgMagenta, color.FgYellow, color.FgBlue,
		color.FgHiCyan, color.FgHiGreen, color.FgHiMagenta, color.FgHiYellow, color.FgHiBlue,
	}
	c := color.New(all[i%len(all)])
	c.EnableColor()
	return c
}

// Fit makes room for names, so that what follows stands in one column. Room that was made once stays.
func (l *lines) Fit(names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range names {
		l.width = max(l.width, min(utf8.RuneCountInString(n), maxName))
	}
}

// Printf writes text of name's, mostly one line.
func (l *lines) Printf(name, format string, a ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, a...), "\n") {
		l.write(name, line)
	}
}

func (l *lines) write(name, line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.terminal {
		name, line = printable(name), printable(line)
	}
	prefix := fmt.Sprintf("%-*s |", l.width, shorten(name, l.width))
	if l.color {
		c, ok := l.seen[name]
		if !ok {
			c = palette(len(l.seen))
			l.seen[name] = c
		}
		prefix = c.Sprint(prefix)
	}
	_, err := fmt.Fprintf(l.w, "%s %s\n", prefix, line)
	// A full disk may have room again; a pipe without reader and a terminal that was closed do not come back.
	if (errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EIO)) && l.gone != nil {
		l.gone()
	}
}

// Copy writes what r gives as lines of name's until r ends, as show makes them if it is not nil. Very long lines are
// cut in pieces.
func (l *lines) Copy(name string, r io.Reader, show func(line string) string) {
	s := bufio.NewReaderSize(r, 16<<10)
	for {
		b, _, err := s.ReadLine()
		if err != nil {
			return
		}
		line := string(b)
		if show != nil {
			line = show(line)
		}
		l.write(name, line)
	}
}

// shorten cuts a name in the middle: its end says which host.
func shorten(name string, width int) string {
	r := []rune(name)
	if len(r) <= width {
		return name
	}
	head := (width - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(width-1-head):])
}

// printable spells out what would steer a terminal: control characters, those that turn the direction of text, and what
// is no UTF-8. Tabs stay.
func printable(s string) string {
	steers := func(r rune) bool {
		return r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == utf8.RuneError
	}
	if strings.IndexFunc(s, steers) < 0 {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if steers(r) {
			quoted := strconv.QuoteToASCII(s[i : i+n])
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}
