package nomad

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/wattle-mesh/wattle/registry"
)

// What is asked. events has no end.
const events = "/v1/event/stream"

var allNodes = question{path: "/v1/nodes"}

func allServices(namespace string) question {
	return question{path: "/v1/services", namespace: namespace}
}

func oneService(n registry.Name) question {
	return question{path: "/v1/service/" + url.PathEscape(n.Name), namespace: n.Namespace}
}

func (r *run) allAllocs(namespace string) question {
	return question{path: "/v1/allocations", namespace: namespace,
		params: map[string]string{"task_states": "false", "resources": fmt.Sprint(r.config.fromHost)}}
}

// namespaceServices is how /v1/services lists.
type namespaceServices struct {
	Namespace string
	Services  []struct{ ServiceName string }
}

// readNodes reads all nodes.
func (r *run) readNodes(ctx context.Context) (uint64, error) {
	var all []*node
	index, err := r.client.once(ctx, allNodes, &all)
	if err != nil {
		return 0, err
	}
	return index, r.takeNodes(ctx, all)
}

// takeNodes takes in all nodes, and reads the metadata of those that changed, if it is wanted.
func (r *run) takeNodes(ctx context.Context, all []*node) error {
	for _, id := range r.table.putNodes(all) {
		var full node
		if _, err := r.client.once(ctx, question{path: "/v1/node/" + url.PathEscape(id)}, &full); err != nil {
			if status(err) == http.StatusNotFound {
				continue
			}
			return err
		}
		r.table.putMeta(id, full.Meta)
	}
	return nil
}

func (r *run) readAllocs(ctx context.Context, namespace string) (uint64, error) {
	var all []*alloc
	index, err := r.client.once(ctx, r.allAllocs(namespace), &all)
	if err == nil {
		r.queue.add(r.table.putAllocs(namespace, all, anew)...)
	}
	return index, err
}

func (r *run) readList(ctx context.Context, namespace string) (uint64, error) {
	var all []namespaceServices
	index, err := r.client.once(ctx, allServices(namespace), &all)
	if err == nil {
		r.takeList(namespace, all, index)
	}
	return index, err
}

// takeList takes in which services a namespace has. Those that come or go are read.
func (r *run) takeList(namespace string, all []namespaceServices, index uint64) {
	now := &list{names: map[registry.Name]bool{}, index: index}
	for _, ns := range all {
		for _, s := range ns.Services {
			if s.ServiceName != "" {
				now.names[registry.Name{Namespace: ns.Namespace, Name: s.ServiceName}] = true
			}
		}
	}
	beyond := max(0, len(now.names)-r.config.most)
	r.table.exceed(beyond)
	if beyond > 0 {
		names := sortedNames(now.names)
		clear(now.names)
		for _, n := range registry.Room(names, r.config.most, r.table.serves(), func(n registry.Name) string { return n.Name }) {
			now.names[n] = true
		}
	}
	r.mu.Lock()
	was := r.lists[namespace]
	r.lists[namespace] = now
	r.mu.Unlock()
	if was == nil {
		return // all are going to be read
	}
	for n := range now.names {
		if !was.names[n] {
			r.queue.add(n)
		}
	}
	for n := range was.names {
		if !now.names[n] {
			r.queue.add(n)
		}
	}
}

func sortedNames(m map[registry.Name]bool) []registry.Name {
	out := make([]registry.Name, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	slices.SortFunc(out, registry.Name.Compare)
	return out
}

// sweep reads every service that is listed or known, and waits until that is done.
func (r *run) sweep(ctx context.Context) error {
	r.mu.Lock()
	for _, l := range r.lists {
		for n := range l.names {
			r.queue.add(n)
		}
	}
	r.mu.Unlock()
	r.queue.add(r.table.names()...)
	select {
	case <-r.queue.empty():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// readQueued reads one service after the other.
func (r *run) readQueued(ctx context.Context) error {
	for {
		n, ok := r.queue.take()
		if !ok {
			select {
			case <-r.queue.more:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := r.readOne(ctx, n); err != nil {
			return err
		}
		r.queue.done(n)
	}
}

// readOne reads a service. Allocations that are not known yet are read with it.
func (r *run) readOne(ctx context.Context, n registry.Name) error {
	var now []*registration
	if _, err := r.client.once(ctx, oneService(n), &now); err != nil {
		return err
	}
	now = slices.DeleteFunc(now, func(g *registration) bool { return g == nil })
	for _, id := range r.table.unknown(now) {
		if _, err := r.readAlloc(ctx, id, n.Namespace); err != nil {
			return err
		}
	}
	dropped, err := r.dropped(ctx, r.table.registered(n), now)
	if err != nil {
		return err
	}
	ids := map[string]bool{}
	for _, g := range dropped {
		ids[g.ID] = true
	}
	r.table.put(ctx, n, append(now, dropped...), ids)
	return nil
}

// dropped returns those of the registrations that were there whose allocations still run what they stand for.
func (r *run) dropped(ctx context.Context, was, now []*registration) ([]*registration, error) {
	if !r.config.keepDropped {
		return nil, nil
	}
	var out []*registration
	for _, g := range was {
		if slices.ContainsFunc(now, func(n *registration) bool { return n.ID == g.ID }) {
			continue
		}
		if a := r.table.alloc(g.AllocID); a == nil || a.ClientStatus != clientRunning || a.DesiredStatus != desiredRun {
			continue
		}
		full, err := r.readAlloc(ctx, g.AllocID, g.Namespace)
		if err != nil {
			return nil, err
		}
		if full.serves(g) {
			out = append(out, g)
		}
	}
	return out, nil
}

// fullAlloc is an allocation with what it runs.
type fullAlloc struct {
	alloc
	TaskStates map[string]struct {
		State  string
		Failed bool
	}
	Job *struct {
		Version    uint64
		TaskGroups []struct {
			Name     string
			Services []jobService
			Tasks    []struct {
				Name     string
				Services []jobService
			}
		}
	}
}

// jobService is a service block of a job.
type jobService struct{ Name, PortLabel, Provider string }

const taskRunning = "running"

// readAlloc reads an allocation; nil if there is none of that ID.
func (r *run) readAlloc(ctx context.Context, id, namespace string) (*fullAlloc, error) {
	var full fullAlloc
	_, err := r.client.once(ctx, question{path: "/v1/allocation/" + url.PathEscape(id), namespace: namespace}, &full)
	switch {
	case status(err) == http.StatusNotFound:
		r.table.putAlloc(id, nil)
		return nil, nil
	case err != nil:
		return nil, err
	}
	a := full.alloc
	if full.Job != nil {
		a.JobVersion = full.Job.Version
	}
	if !r.config.fromHost {
		a.AllocatedResources = nil
	}
	r.table.putAlloc(id, &a)
	return &full, nil
}

// serves reports whether an allocation, which may be nil, runs and its job still declares what a registration stands for.
func (a *fullAlloc) serves(g *registration) bool {
	if a == nil || a.Job == nil || a.ClientStatus != clientRunning || a.DesiredStatus != desiredRun {
		return false
	}
	prefix := "_nomad-task-" + a.ID + "-"
	declares := func(of string, services []jobService) bool {
		return slices.ContainsFunc(services, func(s jobService) bool {
			return s.Provider == "nomad" && prefix+of+"-"+s.Name+"-"+s.PortLabel == g.ID
		})
	}
	for _, tg := range a.Job.TaskGroups {
		if tg.Name != a.TaskGroup {
			continue
		}
		if declares("group-"+tg.Name, tg.Services) {
			return a.tasksRun()
		}
		for _, task := range tg.Tasks {
			if declares(task.Name, task.Services) {
				return a.TaskStates[task.Name].State == taskRunning
			}
		}
	}
	return false
}

// tasksRun reports whether a task runs, and none waits to be started again or has failed.
func (a *fullAlloc) tasksRun() bool {
	running := false
	for _, s := range a.TaskStates {
		if s.State == clientPending || s.Failed {
			return false
		}
		running = running || s.State == taskRunning
	}
	return running
}

// goRound reads every service again from time to time, at an even pace.
func (r *run) goRound(ctx context.Context) error {
	for {
		start := time.Now()
		names := r.table.names()
		pace := rate.NewLimiter(rate.Limit(max(1, 1.2*float64(len(names))/r.config.lap.Seconds())), 1)
		for _, n := range names {
			if err := pace.Wait(ctx); err != nil {
				return err
			}
			r.queue.add(n)
		}
		if err := sleep(ctx, time.Until(start.Add(r.config.lap))); err != nil {
			return err
		}
	}
}
