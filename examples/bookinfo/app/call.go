package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// maxAnswer bounds what is read of another service's answer, in bytes.
const maxAnswer = 1 << 20

// passed lists the headers that a service hands on from the request it got to the calls it makes for it:
// who the user is, and what ties the calls of one request together.
func passed() []string { return []string{"X-Request-Id", "Traceparent"} }

// callAll asks the services all at once; the answers have their order.
func (a *app) callAll(r *http.Request, user string, names []string) []*answer {
	out := make([]*answer, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() { out[i] = a.callOne(r, user, name) })
	}
	wg.Wait()
	return out
}

// callOne asks one service, and says so in the answer when that fails.
func (a *app) callOne(r *http.Request, user, name string) *answer {
	ctx, cancel := context.WithTimeout(r.Context(), a.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.Upstreams[name]+"/"+name, nil)
	if err != nil {
		return failure(name, 0, err)
	}
	req.Host = name
	req.Header.Set("Accept", "application/json")
	if user != "" {
		req.Header.Set("End-User", user)
	}
	for _, h := range passed() {
		if v := r.Header.Values(h); len(v) > 0 {
			req.Header[h] = v
		}
	}
	resp, err := http.DefaultClient.Do(req)
	if errors.Is(err, context.DeadlineExceeded) {
		return failure(name, 0, fmt.Errorf("no answer within %s", a.Timeout))
	}
	if err != nil {
		return failure(name, 0, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case err != nil:
		return failure(name, resp.StatusCode, err)
	case resp.StatusCode != http.StatusOK:
		return failure(name, resp.StatusCode, fmt.Errorf("%s: %s", resp.Status, firstLine(body)))
	}
	ans := &answer{Calls: []*answer{}}
	if err := json.Unmarshal(body, ans); err != nil {
		return failure(name, resp.StatusCode, fmt.Errorf("not the JSON of a service: %w", err))
	}
	return ans
}

func failure(service string, status int, err error) *answer {
	return &answer{Service: service, Status: status, Error: strings.TrimSuffix(err.Error(), ": ")}
}

// firstLine shortens a body to what fits in a sentence.
func firstLine(body []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	return line[:min(len(line), 200)]
}
