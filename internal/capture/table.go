package capture

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/userdata"
)

// TableName is the name of the table, in family inet.
const TableName = "wattle"

// The chains that the kernel enters. Each exists only if it has something to do.
const (
	redirectChain = "redirect" // what leaves processes of this host, before its route is final
	guardChain    = "guard"    // the same, as it is sent after that
	closedChain   = "outside"  // what comes in for processes of this host
)

// beforeNAT puts our redirects before those of others (Docker's published ports), whoever came first.
var beforeNAT = nftables.ChainPriorityRef(*nftables.ChainPriorityNATDest - 1)

// Table is the table in the kernel of one network namespace. The zero value is that of this thread's.
type Table struct {
	// NetNS is a file descriptor of another network namespace.
	NetNS int
}

func (t Table) connect() (*nftables.Conn, error) {
	c, err := nftables.New(nftables.WithNetNSFd(t.NetNS))
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	return c, nil
}

func own() *nftables.Table { return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet} }

// Replace makes the table say r, in one step: at no moment is there half of it. Without rules there is no table.
func (t Table) Replace(r Rules) error {
	if err := r.check(); err != nil {
		return err
	}
	if r.empty() {
		return t.Remove()
	}
	c, err := t.connect()
	if err != nil {
		return err
	}
	c.AddTable(own()) // so that there is one to delete
	c.DelTable(own())
	b := &builder{conn: c, table: c.AddTable(own())}
	b.redirects(r)
	b.doors(r)
	b.closed(r)
	b.write(r.version())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: replace table inet %s: %w", TableName, err)
	}
	return nil
}

// Remove removes the table, if there is one.
func (t Table) Remove() error {
	c, err := t.connect()
	if err != nil {
		return err
	}
	c.AddTable(own())
	c.DelTable(own())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: delete table inet %s: %w", TableName, err)
	}
	return nil
}

// mark is the comment of every rule: of which version it is, and how many there are. So rules that another hand added or
// took away are noticed.
func mark(version string, rules int) string { return fmt.Sprintf("wattle %s %d", version, rules) }

// Has reports whether the table in the kernel is what Replace made of r.
func (t Table) Has(r Rules) (bool, error) {
	c, err := t.connect()
	if err != nil {
		return false, err
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return false, fmt.Errorf("nftables: %w", err)
	}
	var rules []*nftables.Rule
	there := false
	for _, ch := range chains {
		if ch.Table.Name != TableName {
			continue
		}
		there = true
		more, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return false, fmt.Errorf("nftables: %w", err)
		}
		rules = append(rules, more...)
	}
	want := mark(r.version(), len(rules))
	for _, rule := range rules {
		if got, ok := userdata.GetString(rule.UserData, userdata.TypeComment); !ok || got != want {
			return false, nil
		}
	}
	return there != r.empty() && (len(rules) > 0) == there, nil
}

// builder writes one table.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	n     int // chains of their own so far
	rules []*nftables.Rule
}

func (b *builder) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return b.conn.AddChain(&nftables.Chain{Name: name, Table: b.table, Type: kind, Hooknum: hook, Priority: priority, Policy: &accept})
}

// chain makes a chain that other rules lead to.
func (b *builder) chain() *nftables.Chain {
	b.n++
	return b.conn.AddChain(&nftables.Chain{Name: fmt.Sprintf("w%d", b.n), Table: b.table})
}

func (b *builder) rule(c *nftables.Chain, parts ...match) {
	b.rules = append(b.rules, &nftables.Rule{Table: b.table, Chain: c, Exprs: all(parts...)})
}

// write hands over the rules.
func (b *builder) write(version string) {
	comment := userdata.AppendString(nil, userdata.TypeComment, mark(version, len(b.rules)))
	for _, r := range b.rules {
		r.UserData = comment
		b.conn.AddRule(r)
	}
}

// redirects writes what leads to proxies.
func (b *builder) redirects(r Rules) {
	if len(r.Redirects) == 0 {
		return
	}
	base := b.base(redirectChain, nftables.ChainTypeNAT, nftables.ChainHookOutput, beforeNAT)
	b.rule(base, gid(r.Exempt), leave())
	b.rule(base, to(loopback4), leave())
	b.rule(base, to(loopback6), leave())
	for _, x := range r.Redirects {
		c := b.chain()
		for _, p := range x.ExcludeAddresses {
			b.rule(c, to(p), leave())
		}
		for _, port := range x.ExcludePorts {
			b.rule(c, toPort(port), leave())
		}
		b.rule(c, tcp(), counted(), redirect(x.Port))
		for _, is := range x.Owner.either() {
			b.rule(base, tcp(), is, goTo(c.Name))
		}
	}
}

// doors writes who may connect to what.
func (b *builder) doors(r Rules) {
	if len(r.Doors) == 0 {
		return
	}
	base := b.base(guardChain, nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter)
	own := gid(r.Exempt)
	if r.Passed != 0 {
		own = append(own, notPriority(r.Passed)...)
	}
	b.rule(base, own, leave())
	for _, d := range r.Doors {
		c := b.chain()
		for _, is := range d.Owner.either() {
			b.rule(c, is, leave())
		}
		for _, id := range d.Also {
			b.rule(c, uid(id), leave())
		}
		b.rule(c, tcp(), counted(), reset())
		b.rule(c, counted(), refuse())
		places := outward()
		if d.To.IsValid() {
			places = []match{to(d.To)}
		}
		for _, place := range places {
			if d.Port != 0 {
				place = append(toPort(d.Port), place...)
			}
			b.rule(base, place, goTo(c.Name))
		}
	}
}

// closed writes what other hosts may not connect to.
func (b *builder) closed(r Rules) {
	if len(r.Closed) == 0 {
		return
	}
	base := b.base(closedChain, nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	b.rule(base, fromLoopback(), leave())
	b.rule(base, known(), leave())
	for _, x := range r.Closed {
		place := toPort(x.Port)
		if x.Address.IsValid() {
			place = append(place, to(netip.PrefixFrom(x.Address, x.Address.BitLen()))...)
		}
		b.rule(base, place, counted(), reset())
	}
}
