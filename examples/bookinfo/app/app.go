package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// userCookie keeps who a browser signed in as, for productpage.
const userCookie = "end-user"

// app is one service of the demo.
type app struct {
	Service   string
	Version   string
	Host      string            // the name shown
	Upstreams map[string]string // service name to address
	Timeout   time.Duration     // of a call to an upstream
}

// answer is what a service says in JSON. A call that failed has Service, Error and, if there was an HTTP
// answer, Status only.
type answer struct {
	Service string         `json:"service"`
	Version string         `json:"version,omitempty"`
	Host    string         `json:"host,omitempty"`
	Calls   []*answer      `json:"calls,omitzero"`
	Error   string         `json:"error,omitempty"`
	Status  int            `json:"status,omitempty"`
	Book    *book          `json:"book,omitempty"`    // details
	Reviews []review       `json:"reviews,omitempty"` // reviews
	Color   string         `json:"color,omitempty"`   // reviews with stars: of the stars
	Ratings map[string]int `json:"ratings,omitempty"` // ratings: stars by reviewer
}

// Call returns the answer of a service that was called, failed or not; nil if it was not called.
func (a *answer) Call(service string) *answer {
	for _, c := range a.Calls {
		if c.Service == service {
			return c
		}
	}
	return nil
}

// calls lists the services that the app's service and version call.
func (a *app) calls() []string {
	switch {
	case a.Service == "productpage":
		return []string{"details", "reviews"}
	case a.Service == "reviews" && a.Version != "v1":
		return []string{"ratings"}
	}
	return nil
}

// check says what the flags lack.
func (a *app) check() error {
	switch a.Service {
	case "productpage", "details", "reviews", "ratings":
	case "":
		return fmt.Errorf("-service is missing: productpage, details, reviews or ratings")
	default:
		return fmt.Errorf("no service %q: want productpage, details, reviews or ratings", a.Service)
	}
	for _, name := range a.calls() {
		if a.Upstreams[name] == "" {
			return fmt.Errorf("%s %s calls %s: give its address with -upstream %s=ADDRESS", a.Service, a.Version, name, name)
		}
	}
	return nil
}

// Handler serves the service at /SERVICE and at /, and its health at /healthz.
func (a *app) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok")
	})
	if a.Service == "productpage" {
		mux.HandleFunc("GET /sign-in", signIn)
		mux.Handle("GET /{$}", http.RedirectHandler("/productpage", http.StatusFound))
	} else {
		mux.HandleFunc("GET /{$}", a.serve)
	}
	mux.HandleFunc("GET /"+a.Service, a.serve)
	return mux
}

// serve answers one request: in JSON if the client accepts that, else with a page.
func (a *app) serve(w http.ResponseWriter, r *http.Request) {
	user := r.Header.Get("end-user")
	if c, err := r.Cookie(userCookie); err == nil && user == "" && a.Service == "productpage" {
		user = c.Value
	}
	ans := a.answer(r, user)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Vary", "Accept, Cookie, End-User")
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(ans) // a client that went away is nobody's error
		return
	}
	render(w, a.Service, ans, user)
}

// answer makes the service's own part and adds what its calls gave.
func (a *app) answer(r *http.Request, user string) *answer {
	ans := &answer{Service: a.Service, Version: a.Version, Host: a.Host, Calls: []*answer{}}
	switch a.Service {
	case "details":
		ans.Book = theBook()
	case "reviews":
		ans.Reviews = theReviews()
		ans.Color = map[string]string{"v2": "black", "v3": "red"}[a.Version]
	case "ratings":
		ans.Ratings = theRatings()
	}
	if names := a.calls(); len(names) > 0 {
		ans.Calls = a.callAll(r, user, names)
	}
	return ans
}

// signIn keeps the name that was given for the browser's next requests; no name signs out.
func signIn(w http.ResponseWriter, r *http.Request) {
	user := r.URL.Query().Get("user")
	c := &http.Cookie{Name: userCookie, Value: user, Path: "/", HttpOnly: true, SameSite: http.SameSiteLaxMode}
	if user == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
	http.Redirect(w, r, "/productpage", http.StatusSeeOther)
}
