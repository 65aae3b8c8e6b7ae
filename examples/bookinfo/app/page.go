package main

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
)

//go:embed pages/*.html pages/*.css
var pages embed.FS

// page is what the templates see.
type page struct {
	Answer *answer
	Title  string
	User   string
	Style  template.CSS
}

// render writes the service's page. A failed call is shown in its place; the page itself is a success.
func render(w http.ResponseWriter, service string, ans *answer, user string) {
	out, err := execute(service, ans, user)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(out)
}

func execute(service string, ans *answer, user string) ([]byte, error) {
	t, err := template.New("").Funcs(template.FuncMap{"starred": starred, "stars": stars}).ParseFS(pages, "pages/*.html")
	if err != nil {
		return nil, err
	}
	style, err := pages.ReadFile("pages/style.css")
	if err != nil {
		return nil, err
	}
	title := map[string]string{"productpage": "The fence-maker's shelf", "details": "Details", "reviews": "Reviews", "ratings": "Ratings"}[service]
	var b bytes.Buffer
	err = t.ExecuteTemplate(&b, service+".html", page{Answer: ans, Title: title, User: user, Style: template.CSS(style)})
	return b.Bytes(), err
}

// starred gives the reviews of an answer with the stars that ratings gave it, if it asked and got an answer.
func starred(a *answer) []review {
	out := append([]review(nil), a.Reviews...)
	if ratings := a.Call("ratings"); ratings != nil {
		for i := range out {
			out[i].Stars = ratings.Ratings[out[i].Reviewer]
		}
	}
	return out
}

// stars lists five stars, true for the full ones.
func stars(n int) []bool {
	out := make([]bool, 5)
	for i := range out {
		out[i] = i < n
	}
	return out
}
