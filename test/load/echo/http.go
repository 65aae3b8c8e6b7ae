package echo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Handler answers HTTP on every path. The query may say
//
//	delay=100ms           wait before answering
//	status=503&times=2    answer so, the first two times that this server sees the request's id, or always
//	headers=1             list the headers that arrived
//
// POST /control/health?status=503 changes what /healthz answers from then on.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(int(s.status.Load()))
	})
	mux.HandleFunc("POST /control/health", func(w http.ResponseWriter, r *http.Request) {
		status, err := strconv.Atoi(r.URL.Query().Get("status"))
		if err != nil || status < 200 || status > 599 {
			http.Error(w, "want ?status=200..599", http.StatusBadRequest)
			return
		}
		s.status.Store(int64(status))
	})
	mux.HandleFunc("/", s.say)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc") {
			s.grpc.ServeHTTP(w, r)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// say answers a request: one with a body gets it back, others get the answer.
func (s *Server) say(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ans := s.self()
	ans.ID, ans.Method, ans.Path, ans.Proto = r.Header.Get(IDHeader), r.Method, r.URL.RequestURI(), r.Proto
	ans.Caller, ans.Attempt = r.Header.Get(CallerHeader), r.Header.Get(AttemptHeader)
	if ans.Seq, err = s.receive(ans.ID); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	q := r.URL.Query()
	if q.Has("headers") {
		ans.Headers = map[string]string{"host": r.Host}
		for k, v := range r.Header {
			ans.Headers[strings.ToLower(k)] = strings.Join(v, ",")
		}
	}
	status, err := s.demand(r.Context(), q.Get("delay"), q.Get("status"), q.Get("times"), ans.ID)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set(IDHeader, ans.ID)
	w.Header().Set(AnswerHeader, ans.JSON())
	if len(body) == 0 {
		body = []byte(ans.JSON())
		w.Header().Set("Content-Type", "application/json")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that went away is nobody's error
}

// demand waits as long and returns the status that the query asked for.
func (s *Server) demand(ctx context.Context, delay, status, times, id string) (int, error) {
	if delay != "" {
		d, err := time.ParseDuration(delay)
		if err != nil {
			return 0, err
		}
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	if status == "" {
		return http.StatusOK, nil
	}
	code, err := strconv.Atoi(status)
	if err != nil || code < 200 || code > 599 {
		return 0, fmt.Errorf("status %q: want 200..599", status)
	}
	if times == "" {
		return code, nil
	}
	n, err := strconv.Atoi(times)
	if err != nil {
		return 0, err
	}
	if s.failing(id, n) {
		return code, nil
	}
	return http.StatusOK, nil
}

// newGRPC serves RPC.
func (s *Server) newGRPC() *grpc.Server {
	srv := grpc.NewServer()
	service, method, _ := strings.Cut(strings.TrimPrefix(RPC, "/"), "/")
	_, stream, _ := strings.Cut(strings.TrimPrefix(StreamRPC, "/"), "/")
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: service,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{{
			MethodName: method,
			Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
				in := new(wrapperspb.BytesValue)
				if err := decode(in); err != nil {
					return nil, err
				}
				return s.rpc(ctx, in)
			},
		}},
		Streams: []grpc.StreamDesc{{
			StreamName: stream, ServerStreams: true, ClientStreams: true,
			Handler: func(_ any, stream grpc.ServerStream) error { return s.talk(stream) },
		}},
	}, struct{}{})
	return srv
}

// rpc gives a message back, with the answer in the header.
func (s *Server) rpc(ctx context.Context, in *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	md, err := s.greet(ctx)
	if err != nil {
		return nil, err
	}
	return in, grpc.SetHeader(ctx, md)
}

// talk gives every message back, with the answer in the header, until the caller has said all or goes away.
func (s *Server) talk(stream grpc.ServerStream) error {
	md, err := s.greet(stream.Context())
	if err != nil {
		return err
	}
	if err := stream.SendHeader(md); err != nil {
		return err
	}
	for {
		in := new(wrapperspb.BytesValue)
		err := stream.RecvMsg(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = stream.SendMsg(in)
		}
		if err != nil {
			return err
		}
	}
}

// greet receives a call and returns the header of its answer.
func (s *Server) greet(ctx context.Context) (metadata.MD, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	first := func(key string) string { return strings.Join(md.Get(key), ",") }
	ans := s.self()
	ans.ID, ans.Caller, ans.Attempt, ans.Proto = first(IDHeader), first(CallerHeader), first(AttemptHeader), "gRPC"
	var err error
	if ans.Seq, err = s.receive(ans.ID); err != nil {
		return nil, err
	}
	return metadata.Pairs(IDHeader, ans.ID, AnswerHeader, ans.JSON()), nil
}
