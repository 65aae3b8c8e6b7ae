package echo

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func newServer(t *testing.T) *httptest.Server {
	t.Helper()
	s, err := Listen(t.Context(), Options{Name: "shop", Version: "v2", Host: "h1", Instance: "b"})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(srv.Close)
	return srv
}

func call(t *testing.T, method, url string, header ...string) (int, Answer) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a Answer
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = json.Unmarshal(body, &a)
	return resp.StatusCode, a
}

func TestTheAnswerSaysWhoAnsweredWhom(t *testing.T) {
	srv := newServer(t)
	xfcc := `By=spiffe://x/ns/default/svc/shop;Hash=00;Subject="";URI=spiffe://x/ns/default/svc/web;DNS=h1.node.x`
	status, a := call(t, http.MethodGet, srv.URL+"/cart?headers=1", IDHeader, "7", CallerHeader, xfcc, "X-Color", "green")
	if status != http.StatusOK || a.Name != "shop" || a.Version != "v2" || a.Host != "h1" || a.Instance != "b" || a.ID != "7" || a.Path != "/cart?headers=1" {
		t.Errorf("status %d, %+v", status, a)
	}
	if a.CallerID() != "spiffe://x/ns/default/svc/web" {
		t.Errorf("caller = %q", a.CallerID())
	}
	if a.Headers["x-color"] != "green" {
		t.Errorf("headers = %v", a.Headers)
	}
	if id := (Answer{}).CallerID(); id != "" {
		t.Errorf("caller of an answer without one = %q", id)
	}
}

func TestTheQueryMakesItFail(t *testing.T) {
	srv := newServer(t)
	var got []string
	for _, id := range []string{"1", "1", "1", "2"} {
		status, _ := call(t, http.MethodGet, srv.URL+"/?status=503&times=2", IDHeader, id)
		got = append(got, fmt.Sprint(status))
	}
	if s := strings.Join(got, " "); s != "503 503 200 503" {
		t.Errorf("statuses %s", s)
	}
	for _, bad := range []string{"status=1", "status=x", "delay=1", "status=500&times=x"} {
		if status, _ := call(t, http.MethodGet, srv.URL+"/?"+bad); status != http.StatusBadRequest {
			t.Errorf("%s: status %d", bad, status)
		}
	}
}

func TestHealthChangesOnDemand(t *testing.T) {
	srv := newServer(t)
	health := func() int { status, _ := call(t, http.MethodGet, srv.URL+"/healthz"); return status }
	if health() != 200 {
		t.Error("not healthy at first")
	}
	call(t, http.MethodPost, srv.URL+"/control/health?status=503")
	if health() != 503 {
		t.Error("healthy after it was told not to be")
	}
	if status, _ := call(t, http.MethodPost, srv.URL+"/control/health?status=1"); status != http.StatusBadRequest {
		t.Errorf("a status that is none: %d", status)
	}
}
