package main

// book is what details knows.
type book struct {
	Title     string `json:"title"`
	Subtitle  string `json:"subtitle"`
	Blurb     string `json:"blurb"`
	Kind      string `json:"kind"`
	Pages     int    `json:"pages"`
	Language  string `json:"language"`
	Shelfmark string `json:"shelfmark"`
}

// review is one reader's word.
type review struct {
	Reviewer string `json:"reviewer"`
	Text     string `json:"text"`
	Stars    int    `json:"stars,omitempty"` // from ratings; 0: not known
}

func theBook() *book {
	return &book{
		Title:    "Fences from What Is at Hand",
		Subtitle: "A pocket guide to hurdles, hedges and wattle",
		Blurb: "How to stake, weave and mend a fence with the rods that grow nearby: hazel in the valley, willow " +
			"by the water, birch on the hill. No two panels come out alike, and all of them keep the sheep in.",
		Kind:      "Paperback, stapled",
		Pages:     96,
		Language:  "English",
		Shelfmark: "FEN 07",
	}
}

func theReviews() []review {
	return []review{
		{Reviewer: "A reader in the valley", Text: "I lent it to the neighbour and got back a straight fence and a book with mud on every page. Both are in use."},
		{Reviewer: "A reader on the hill", Text: "Clear drawings and short chapters. It could say more about wind; mine has been through two winters and leans a little."},
	}
}

func theRatings() map[string]int {
	return map[string]int{"A reader in the valley": 5, "A reader on the hill": 4}
}
