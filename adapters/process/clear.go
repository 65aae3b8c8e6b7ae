package process

import (
	"context"
	"fmt"
	"time"

	"github.com/wattle-mesh/wattle/adapters"
)

// clearAgain is how soon it is looked again whether all Envoys have ended.
const clearAgain = 50 * time.Millisecond

// Clear ends all Envoys of the run folder, each with its last connection or when its time is up. No Adapter may run meanwhile.
func (a *Adapter) Clear(ctx context.Context) error {
	inner, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(inner) }()
	defer func() { cancel(); <-ended }()
	if err := a.Apply(ctx, adapters.Plan{}); err != nil {
		return err
	}
	for {
		left, err := a.running()
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-time.After(clearAgain):
		case <-ctx.Done():
			return fmt.Errorf("%d Envoys have not ended: %w", len(left), context.Cause(ctx))
		}
	}
}
