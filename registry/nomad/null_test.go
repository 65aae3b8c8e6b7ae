package nomad

import (
	"net/http"
	"strings"
	"testing"
)

// A list in which something is null is read without it.
func TestNullInAListIsNothing(t *testing.T) {
	t.Parallel()
	f, url := newFake(t)
	answers := map[string]string{
		"/v1/nodes":       `[null]`,
		"/v1/allocations": `[null]`,
		"/v1/deployments": `[null]`,
		"/v1/services":    `[null, {"Namespace": "default", "Services": [null, {"ServiceName": "web"}]}]`,
		"/v1/service/web": `[null]`,
	}
	asked := map[string]bool{}
	f.answer = func(w http.ResponseWriter, path string) bool {
		text, ok := answers[path]
		if ok {
			asked[path] = true
			w.Header().Set("X-Nomad-Index", "10")
			w.Header().Set("X-Nomad-KnownLeader", "true")
			w.Header().Set("X-Nomad-LastContact", "0")
			w.Write([]byte(text))
		}
		return ok
	}
	m := join(t, to(strings.TrimPrefix(url, "http://")))
	eventually(t, "a set", func() bool { return m.Status()[0].Synced })
	m.await()
	m.awaitSound()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(asked) != len(answers) {
		t.Errorf("only %v were asked for", asked)
	}
}
