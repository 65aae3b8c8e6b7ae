package main

import (
	"bufio"
	"fmt"
	"io"
	"sync"

	"github.com/fatih/color"
)

// lines interleaves the output of many processes, whole lines at a time, each with its process's name before it.
type lines struct {
	mu    sync.Mutex
	w     io.Writer
	width int
	color bool
	seen  map[string]*color.Color
}

func newLines(w io.Writer, colored bool) *lines {
	return &lines{w: w, width: 14, color: colored, seen: map[string]*color.Color{}}
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

// Printf writes one line of name's.
func (l *lines) Printf(name, format string, a ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	prefix := fmt.Sprintf("%-*s |", l.width, name)
	if l.color {
		c, ok := l.seen[name]
		if !ok {
			c = palette(len(l.seen))
			l.seen[name] = c
		}
		prefix = c.Sprint(prefix)
	}
	fmt.Fprintf(l.w, "%s %s\n", prefix, fmt.Sprintf(format, a...))
}

// Copy writes what r gives as lines of name's until r ends. Very long lines are cut in pieces.
func (l *lines) Copy(name string, r io.Reader) {
	s := bufio.NewReaderSize(r, 16<<10)
	for {
		line, _, err := s.ReadLine()
		if err != nil {
			return
		}
		l.Printf(name, "%s", line)
	}
}
