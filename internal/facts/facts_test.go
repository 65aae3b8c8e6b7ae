package facts

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// check takes all but what is empty or named "bad".
func check(name, value string) error {
	if value == "" || name == "bad" {
		return errors.New("it cannot be: " + name)
	}
	return nil
}

func TestAMachineIsFoundOut(t *testing.T) {
	all, faults := Read(filepath.Join(t.TempDir(), "none"), check)
	if len(faults) > 0 {
		t.Errorf("a folder that is missing is a fault: %v", faults)
	}
	if all["cpu.arch"] != runtime.GOARCH || all["cpu.numcores"] != strconv.Itoa(runtime.NumCPU()) || all["kernel.version"] == "" || all["os.name"] == "" {
		t.Errorf("%v", all)
	}
}

func TestFilesSayWhatTheHostIs(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "rack.txt", "r7\n")
	write(t, dir, "cloud", "# where it was rented\n\ncloud.provider = \"aws\"\ncloud.zone=eu-1a\nos.name = mine\n")
	write(t, dir, ".hidden", "x = y\n")
	write(t, dir, "old~", "x = y\n")
	all, faults := Read(dir, check)
	if len(faults) > 0 {
		t.Errorf("faults: %v", faults)
	}
	want := map[string]string{"rack": "r7", "cloud.provider": "aws", "cloud.zone": "eu-1a", "os.name": "mine"}
	for name, value := range want {
		if all[name] != value {
			t.Errorf("%s is %q, want %q", name, all[name], value)
		}
	}
	if _, ok := all["x"]; ok {
		t.Error("hidden files and backups are read")
	}
}

func TestWhatIsWrongWithFilesIsSaidAndTheRestCounts(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "a", "rack = r1\nbad = x\n")
	write(t, dir, "b", "rack = r2\nrow = 3\n")
	write(t, dir, "c", "some words\nthat are no facts\n")
	write(t, dir, "d", strings.Repeat("x", maxFile+1))
	write(t, dir, "e", "zone = z\nno fact\n")
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	all, faults := Read(dir, check)
	if all["rack"] != "r1" || all["row"] != "3" {
		t.Errorf("%v", all)
	}
	text := errors.Join(faults...).Error()
	for _, want := range []string{"a:2: it cannot be: bad", "b:1: rack is a fact of " + filepath.Join(dir, "a:1"), "c:2:", "larger than", "e:2:"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not said of\n%s", want, text)
		}
	}
	if len(faults) != 5 {
		t.Errorf("%d faults:\n%s", len(faults), text)
	}
}

func TestThereAreNoMoreFactsThanAHostMayHave(t *testing.T) {
	dir := t.TempDir()
	var text strings.Builder
	for i := range 2 * Max {
		fmt.Fprintf(&text, "f%d = x\n", i)
	}
	write(t, dir, "many", text.String())
	all, faults := Read(dir, check)
	if len(all) != Max || len(faults) == 0 {
		t.Errorf("%d facts, %d faults", len(all), len(faults))
	}
	again, _ := Read(dir, check)
	if !maps.Equal(all, again) {
		t.Error("they are others the second time")
	}
}
