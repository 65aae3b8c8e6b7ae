package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

// step is a block of commands in a document, and where it is run.
type step struct {
	hosts []string
	until bool // again until it succeeds
	text  string
}

var marked = regexp.MustCompile("(?s)<!-- lab: ([^>]*) -->\n```sh\n(.*?)```")

// stepsOf lists the commands of a document that the lab runs. Those that it does not run are an error.
func stepsOf(file string) ([]step, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var out []step
	for _, m := range marked.FindAllStringSubmatch(string(text), -1) {
		words := strings.Fields(m[1])
		i := slices.Index(words, "until")
		out = append(out, step{until: i >= 0, hosts: slices.DeleteFunc(words, func(w string) bool { return w == "until" }), text: m[2]})
	}
	if n := strings.Count(string(text), "```sh"); n != len(out) {
		return nil, fmt.Errorf("%s: %d blocks of commands, of which the lab would run %d", file, n, len(out))
	}
	return out, nil
}

// follow does what a document says, and returns how long it took from the first host's join to the end.
func (w *world) follow(ctx context.Context, file string) (time.Duration, error) {
	all, err := stepsOf(file)
	if err != nil {
		return 0, err
	}
	var began time.Time
	for _, s := range all {
		if began.IsZero() && strings.Contains(s.text, "wattle agent join") {
			began = time.Now()
			if err := errors.Join(w.handOver(w.callee), w.handOver(w.caller)); err != nil {
				return 0, err
			}
		}
		for _, name := range s.hosts {
			i := slices.IndexFunc(w.hosts, func(h *host) bool { return h.name == name })
			if i < 0 {
				return 0, fmt.Errorf("%s: no host %s", file, name)
			}
			do := func() error {
				_, err := w.hosts[i].run(ctx, "sh", "-ec", "cd /root\n"+s.text)
				return err
			}
			if s.until {
				err = until(ctx, settle, s.text, do)
			} else {
				err = do()
			}
			if err != nil {
				return 0, fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return time.Since(began), nil
}
