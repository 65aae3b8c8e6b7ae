package main

import (
	"io"
	"log/slog"
	"strings"
	"time"

	"github.com/lmittmann/tint"

	"github.com/wattle-mesh/wattle/configs"
)

// logTime is how lines for people say the time.
const logTime = time.TimeOnly + ".000"

// newLog makes a process's logger: lines for people, or JSON.
func newLog(w io.Writer, level, format string) *slog.Logger {
	var l slog.Level
	if err := l.UnmarshalText([]byte(strings.ToUpper(level))); err != nil {
		l = slog.LevelInfo // configs checks what users write
	}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l}))
	}
	return slog.New(tint.NewTextHandler(w, &tint.Options{Level: l, TimeFormat: logTime, NoColor: !colored(w)}))
}

// refuse prints diagnostics; if there is an error among them, the command ends with it.
func refuse(w io.Writer, ds configs.Diagnostics) error {
	if err := ds.WriteText(w, colored(w)); err != nil {
		return err
	}
	if ds.HasErrors() {
		return &invalid{}
	}
	return nil
}
