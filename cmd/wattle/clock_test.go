package main

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestOnlyABuildOfTestsHasAWrongClock(t *testing.T) {
	t.Setenv("WATTLE_TEST_CLOCK", "5m")
	now, err := clock()
	if err != nil || time.Until(now()).Abs() > time.Minute {
		t.Errorf("%v, %v", now(), err)
	}
	clockFrom = "WATTLE_TEST_CLOCK"
	defer func() { clockFrom = "" }()
	if now, err = clock(); err != nil || time.Until(now()) < 4*time.Minute {
		t.Errorf("%v, %v", now(), err)
	}
	t.Setenv("WATTLE_TEST_CLOCK", "late")
	if _, err := clock(); err == nil || !strings.Contains(err.Error(), "WATTLE_TEST_CLOCK") {
		t.Errorf("%v", err)
	}
	// The variable's name is nowhere in what is released.
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	out, _ := exec.Command("grep", append([]string{"-l", "clockFrom ="}, files...)...).Output()
	if got := strings.Fields(string(out)); len(got) != 1 || got[0] != "clock_test.go" {
		t.Errorf("clockFrom is set in %q", got)
	}
}
