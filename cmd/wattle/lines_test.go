package main

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"
)

func TestLinesStandInOneColumn(t *testing.T) {
	var b bytes.Buffer
	l := newLines(&b, nil)
	l.Fit([]string{"server", "shop/productpage-v1@h1", "a-service-with-a-very-long-name-indeed@host-17"})
	for _, name := range []string{"dev", "shop/productpage-v1@h1", "a-service-with-a-very-long-name-indeed@host-17"} {
		l.Printf(name, "one\ntwo")
	}
	want := strings.Join([]string{
		"dev                          | one",
		"dev                          | two",
		"shop/productpage-v1@h1       | one",
		"shop/productpage-v1@h1       | two",
		"a-service-wit…indeed@host-17 | one",
		"a-service-wit…indeed@host-17 | two", "",
	}, "\n")
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

func TestATerminalIsNotSteeredByWhatAChildWrites(t *testing.T) {
	const in = "a\x1b]0;title\a b\tc \u009b31m \u202edlo \xff\r ü ✓"
	for _, c := range []struct {
		terminal bool
		want     string
	}{
		{true, "a\\x1b]0;title\\a b\tc \\u009b31m \\u202edlo \\xff\\r ü ✓"},
		{false, in},
	} {
		var b bytes.Buffer
		l := newLines(&b, nil)
		l.terminal = c.terminal
		l.Copy("x\x1b[2J", strings.NewReader(in+"\n"), nil)
		if _, got, _ := strings.Cut(strings.TrimSuffix(b.String(), "\n"), " | "); got != c.want {
			t.Errorf("terminal %t: got %q, want %q", c.terminal, got, c.want)
		}
		if c.terminal == strings.Contains(b.String(), "\x1b") {
			t.Errorf("terminal %t: %q", c.terminal, b.String())
		}
	}
}

func TestColoursThatDevMakesReachTheTerminal(t *testing.T) {
	var b bytes.Buffer
	l := newLines(&b, nil)
	l.terminal, l.color = true, true
	l.Printf("app", "text")
	if !strings.HasPrefix(b.String(), "\x1b[36mapp") {
		t.Errorf("%q", b.String())
	}
}

func TestLinesThatNobodyReadsAreReported(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	gone := 0
	l := newLines(w, func() { gone++ })
	l.Printf("dev", "read")
	if r.Close(); gone != 0 {
		t.Error("gone while there was a reader")
	}
	if l.Printf("dev", "not read"); gone != 1 {
		t.Errorf("gone %d times", gone)
	}
	full := newLines(failing{}, func() { gone++ })
	if full.Printf("dev", "lost"); gone != 1 {
		t.Error("a full disk ends everything")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestAccessLogLinesAreShownShort(t *testing.T) {
	at, err := time.Parse(time.RFC3339, "2026-11-23T05:09:46.741Z")
	if err != nil {
		t.Fatal(err)
	}
	clock := at.Local().Format(logTime)
	for _, c := range []struct{ name, line, want string }{
		{
			"a request that the application refused",
			`{"at":"in/default/details:9080","attempts":1,"authority":"details","caller":"spiffe://b/ns/default/svc/productpage","cluster":"in/default/details:9080","details":"upstream_reset{delayed_connect_error:_Connection_refused}","failure":"delayed_connect_error:_Connection_refused","flags":"UF","from":"127.0.0.1:41360","method":"GET","path":"/details","request_id":"x","status":503,"time":"2026-11-23T05:09:46.741Z","took_ms":3,"upstream":"127.0.1.2:9080"}`,
			clock + ` in/default/details:9080: GET /details 503 UF upstream_reset{delayed_connect_error:_Connection_refused}, upstream 127.0.1.2:9080, 3 ms`,
		},
		{
			"a request whose caller went away, tried twice",
			`{"at":"gw/http","attempts":2,"details":"downstream_remote_disconnect","flags":"DC","method":"GET","path":"/","status":0,"time":"2026-11-23T05:09:46.741Z","took_ms":3001}`,
			clock + ` gw/http: GET / DC downstream_remote_disconnect, 3001 ms, 2 attempts`,
		},
		{
			"a connection",
			`{"at":"out/default/web/db","flags":"UF","failure":"refused","received":0,"sent":0,"time":"2026-11-23T05:09:46.741Z","took_ms":0}`,
			clock + ` out/default/web/db: UF refused, 0 ms`,
		},
		{"another program's JSON", `{"level":"info","msg":"x"}`, `{"level":"info","msg":"x"}`},
		{"a line that was cut", `{"at":"gw/http","time":"2026-11-23T05:0`, `{"at":"gw/http","time":"2026-11-23T05:0`},
		{"any other line", "05:09:46 INF started envoy", "05:09:46 INF started envoy"},
	} {
		if got := brief(c.line); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
}
