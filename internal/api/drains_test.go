package api

import (
	"net/http"
	"strings"
	"testing"

	"github.com/wattle-mesh/wattle/configs"
	"github.com/wattle-mesh/wattle/internal/api/apipb"
)

func TestAHostIsTakenIntoMaintenanceAndOutOfIt(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	s.policy(nil)
	r := report(t, s.admit("h1", "*/*"))
	if refused := r.say(&apipb.ReportRequest{Registrations: []*apipb.Registration{register(t, service("reviews"))}}); len(refused) > 0 {
		t.Fatal(refused)
	}
	s.awaitNames("reviews@h1")

	got, err := s.client.DrainNode(t.Context(), "h1", DrainRequest{Reason: "new\nkernel"})
	if err != nil || got.Name != "h1" || got.Drain == nil || strings.Contains(got.Drain.Reason, "\n") || got.Drain.Since.IsZero() {
		t.Fatalf("%+v, %v", got, err)
	}
	for what, read := range map[string]func() (NodeStatus, error){
		"one host": func() (NodeStatus, error) { return s.client.Node(t.Context(), "h1") },
		"a repeat": func() (NodeStatus, error) {
			return s.client.DrainNode(t.Context(), "h1", DrainRequest{Reason: "kernel"})
		},
		"the list": func() (NodeStatus, error) {
			all, err := s.client.Nodes(t.Context())
			if err != nil || len(all) != 1 {
				t.Fatalf("%+v, %v", all, err)
			}
			return all[0], nil
		},
	} {
		if n, err := read(); err != nil || n.Drain == nil {
			t.Errorf("%s: %+v, %v", what, n, err)
		}
	}
	if n, ok, err := s.store.Node("h1"); err != nil || !ok || n.Drain == nil {
		t.Errorf("the store has %+v, %v", n, err)
	}

	if got, err = s.client.UndrainNode(t.Context(), "h1"); err != nil || got.Drain != nil || len(got.Drains) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if n, _, err := s.store.Node("h1"); err != nil || n.Drain != nil {
		t.Errorf("the store has %+v, %v", n, err)
	}
}

func TestOnlyAHostThatJoinedIsDrained(t *testing.T) {
	s := newSite(t, "127.0.0.1:0")
	s.policy(nil)
	s.admit("h1", "*/*")
	_, err := s.client.DrainNode(t.Context(), "h2", DrainRequest{})
	wantError(t, "a host that is not there", err, http.StatusNotFound, "", `there is no host "h2"`)
	_, err = s.client.UndrainNode(t.Context(), "h2")
	wantError(t, "and out of it", err, http.StatusNotFound, "", `there is no host "h2"`)
	_, err = s.client.Node(t.Context(), "h2")
	wantError(t, "and asked about", err, http.StatusNotFound, "", `there is no host "h2"`)
	_, err = s.client.DrainNode(t.Context(), "H 2", DrainRequest{})
	wantError(t, "no name", err, http.StatusBadRequest, "", "node")
	if code, _, text := s.ask(http.MethodPut, "/v1/nodes/h1/drain", `{"reason":"x"}`, map[string]string{"Content-Type": "application/json"}); code != http.StatusUnauthorized && code != http.StatusForbidden {
		t.Errorf("without the token: %d %s", code, text)
	}
	if n, err := s.client.Node(t.Context(), "h1"); err != nil || n.Drain != nil {
		t.Errorf("%+v, %v", n, err)
	}
}

func TestARequestToDrainWorkloadsIsChecked(t *testing.T) {
	parse := func(method, body string) (*DrainWorkload, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, "/v1/units/web.service/drain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		return ParseDrainRequest(r)
	}
	got, err := parse(http.MethodPut, `{"reason":"a\u001bb`+strings.Repeat("c", 2*maxWhy)+`","wait":"5s"}`)
	if err != nil || got.Wait != configs.Duration(5e9) || len(got.Reason) > maxWhy+8 || strings.Contains(got.Reason, "\x1b") {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := parse(http.MethodDelete, ""); err != nil || *got != (DrainWorkload{}) {
		t.Errorf("to take it back: %+v, %v", got, err)
	}
	for body, says := range map[string]string{`{"wait":"31s"}`: "from 0s to 30s", `{"wait":"-1s"}`: "", `{"wiat":"1s"}`: "wiat", `[`: ""} {
		_, err := parse(http.MethodPut, body)
		wantError(t, body, err, http.StatusBadRequest, CodeMalformed, says)
	}
}
