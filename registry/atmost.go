package registry

import (
	"fmt"
	"io"
)

// AtMost bounds the body of an answer: who reads more than n bytes of it gets an error.
func AtMost(body io.ReadCloser, n int64) io.ReadCloser { return &limited{body, n, n} }

type limited struct {
	io.ReadCloser
	most, left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, fmt.Errorf("the answer is larger than %d MB", l.most>>20)
	}
	n, err := l.ReadCloser.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}
