package capture

import (
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const register = unix.NFT_REG_1

// match is part of a rule: expressions that must all be true, in the order in which the kernel looks.
type match []expr.Any

func all(parts ...match) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func meta(key expr.MetaKey, value []byte) match {
	return match{&expr.Meta{Key: key, Register: register}, &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: value}}
}

func uid(id uint32) match { return meta(expr.MetaKeySKUID, binaryutil.NativeEndian.PutUint32(id)) }
func gid(id uint32) match { return meta(expr.MetaKeySKGID, binaryutil.NativeEndian.PutUint32(id)) }

// notPriority matches packets of another priority than a socket's SO_PRIORITY.
func notPriority(p uint32) match {
	return match{
		&expr.Meta{Key: expr.MetaKeyPRIORITY, Register: register},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: binaryutil.NativeEndian.PutUint32(p)},
	}
}

func cgroup(g Cgroup) match {
	return match{
		&expr.Socket{Key: expr.SocketKeyCgroupv2, Level: g.Level, Register: register},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.NativeEndian.PutUint64(g.ID)},
	}
}

// either lists the ways in which a process is an owner's, a match each.
func (o Owner) either() []match {
	var out []match
	for _, g := range o.Groups {
		out = append(out, cgroup(g))
	}
	for _, id := range o.UIDs {
		out = append(out, uid(id))
	}
	return out
}

func tcp() match { return meta(expr.MetaKeyL4PROTO, []byte{unix.IPPROTO_TCP}) }

// toPort matches TCP to a port.
func toPort(port uint16) match {
	return append(tcp(),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.BigEndian.PutUint16(port)})
}

// to matches a destination.
func to(p netip.Prefix) match { return destination(p, expr.CmpOpEq) }

// outward matches destinations that are the host's own addresses, but for those of loopback: IPv4, then IPv6.
func outward() []match {
	local := match{
		&expr.Fib{Register: register, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
	return []match{append(destination(loopback4, expr.CmpOpNeq), local...), append(destination(loopback6, expr.CmpOpNeq), local...)}
}

var (
	loopback4 = netip.MustParsePrefix("127.0.0.0/8")
	loopback6 = netip.MustParsePrefix("::1/128")
)

// destination compares the destination with a prefix, of packets of the prefix's family.
func destination(p netip.Prefix, op expr.CmpOp) match {
	family, offset, size := byte(unix.NFPROTO_IPV4), uint32(16), uint32(4)
	if p.Addr().Is6() {
		family, offset, size = unix.NFPROTO_IPV6, 24, 16
	}
	mask := make([]byte, size)
	for i := range p.Bits() {
		mask[i/8] |= 1 << (7 - i%8)
	}
	return append(meta(expr.MetaKeyNFPROTO, []byte{family}),
		&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: size},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: register, Data: p.Masked().Addr().AsSlice()})
}

// fromLoopback matches what has not left the host.
func fromLoopback() match {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return meta(expr.MetaKeyIIFNAME, name)
}

// known matches packets of connections that were let in before.
func known() match {
	zero := make([]byte, 4)
	return match{
		&expr.Ct{Key: expr.CtKeySTATE, Register: register},
		&expr.Bitwise{SourceRegister: register, DestRegister: register, Len: 4, Xor: zero,
			Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: register, Data: zero},
	}
}

// Verdicts end a rule.
func leave() match { return match{&expr.Verdict{Kind: expr.VerdictReturn}} }

func goTo(chain string) match { return match{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}} }

// counted counts what comes this far: of redirects connections, else packets.
func counted() match { return match{&expr.Counter{}} }

func redirect(port uint16) match {
	return match{&expr.Immediate{Register: register, Data: binaryutil.BigEndian.PutUint16(port)}, &expr.Redir{RegisterProtoMin: register}}
}

// refuse answers as a host does where nobody listens, so that nobody waits.
func refuse() match {
	return match{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}
}

func reset() match { return match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }
