package capture

import (
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Counts are what the table has done since it was made, which is whenever rules change.
type Counts struct {
	Redirected uint64 // connections that were led to a proxy
	Refused    uint64 // packets that began what the guard does not let in; most often one each
}

// Count reads the table's counters. Without a table all are zero.
func (t Table) Count() (out Counts, err error) {
	c, err := t.connect()
	if err != nil {
		return out, err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return out, fmt.Errorf("nftables: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name != TableName {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return out, fmt.Errorf("nftables: %w", err)
		}
		for _, r := range rules {
			var n uint64
			for _, e := range r.Exprs {
				switch x := e.(type) {
				case *expr.Counter:
					n = x.Packets
				case *expr.Redir:
					out.Redirected += n
				case *expr.Reject:
					out.Refused += n
				}
			}
		}
	}
	return out, nil
}
