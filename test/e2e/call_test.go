package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/wattle-mesh/wattle/test/load/echo"
)

// callLimit is how long one call may take.
const callLimit = 10 * time.Second

// request is an HTTP request to the echo application, through whatever is at Addr.
type request struct {
	Addr   string // host:port or unix:PATH
	Method string // GET if empty
	Path   string // "/" if empty
	Host   string
	Header map[string]string
	Body   string
}

// response is what came back.
type response struct {
	Status int
	Header http.Header
	Body   string
	Answer echo.Answer // zero if it is not the application's
	Took   time.Duration
}

// call sends a request on a connection of its own. Redirects are not followed.
func call(ctx context.Context, r request) (*response, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return connect(ctx, r.Addr)
	}}
	host := r.Host
	if host == "" {
		host = "test"
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, "http://"+host+"/"+strings.TrimPrefix(r.Path, "/"), strings.NewReader(r.Body))
	if err != nil {
		return nil, err
	}
	for k, v := range r.Header {
		req.Header.Set(k, v)
	}
	began := time.Now()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	out := &response{Status: resp.StatusCode, Header: resp.Header, Body: string(body), Took: time.Since(began)}
	_ = json.Unmarshal([]byte(resp.Header.Get(echo.AnswerHeader)), &out.Answer)
	return out, nil
}

// connect opens a connection to host:port or unix:PATH.
func connect(ctx context.Context, addr string) (net.Conn, error) {
	network := "tcp"
	if path, ok := strings.CutPrefix(addr, "unix:"); ok {
		network, addr = "unix", path
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}

// dial says whether something listens at an address.
func dial(ctx context.Context, addr string) error {
	c, err := connect(ctx, addr)
	if err != nil {
		return err
	}
	return c.Close()
}

// mustCall is call with the mesh's addresses filled in, for answers that must come.
func (m *mesh) mustCall(t *testing.T, r request) *response {
	t.Helper()
	r.Addr = m.at(r.Addr)
	resp, err := call(t.Context(), r)
	if err != nil {
		t.Fatalf("%s %s: %v", r.Addr, r.Path, err)
	}
	return resp
}

// reached waits until a call gives a good answer, and returns it.
func (m *mesh) reached(t *testing.T, r request) *response {
	t.Helper()
	r.Addr = m.at(r.Addr)
	var resp *response
	eventually(t, r.Addr+" to be reached", func() (err error) {
		if resp, err = call(t.Context(), r); err == nil && resp.Status != http.StatusOK {
			err = fmt.Errorf("status %d: %.200s", resp.Status, resp.Body)
		}
		return err
	})
	return resp
}

// exchange sends a line to the echo application's TCP port, through whatever is at addr.
func exchange(ctx context.Context, addr, line string) (echo.Answer, error) {
	var ans echo.Answer
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	c, err := connect(ctx, addr)
	if err != nil {
		return ans, err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		return ans, err
	}
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return ans, err
	}
	back, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return ans, fmt.Errorf("after %q: %w", back, err)
	}
	answer, echoed, _ := strings.Cut(back, "} ")
	if echoed != line+"\n" {
		return ans, fmt.Errorf("sent %q, got %q", line, back)
	}
	err = json.Unmarshal([]byte(answer+"}"), &ans)
	return ans, err
}

// tally sends n equal requests, some at a time, and counts the answers by key. A call that fails is a failure of the test.
func (m *mesh) tally(t *testing.T, n int, r request, key func(*response) string) map[string]int {
	t.Helper()
	r.Addr = m.at(r.Addr)
	const workers = 8
	jobs, keys := make(chan struct{}), make(chan string)
	for range workers {
		go func() {
			for range jobs {
				resp, err := call(t.Context(), r)
				if err != nil {
					keys <- err.Error()
					continue
				}
				keys <- key(resp)
			}
		}()
	}
	go func() {
		defer close(jobs)
		for range n {
			jobs <- struct{}{}
		}
	}()
	out := map[string]int{}
	for range n {
		out[<-keys]++
	}
	return out
}

// version is a key for tally: which version answered, or the status of an answer that is not good.
func version(r *response) string {
	if r.Status != http.StatusOK {
		return fmt.Sprint(r.Status)
	}
	return r.Answer.Version
}

// serve runs a server until the test ends.
func serve(t *testing.T, run func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
