package xds

import (
	"fmt"
	"strconv"
	"strings"
)

// Stamp says how late in the life of a server's store a response was made. Content hashes have no order, stamps of one store
// do. The zero value is none.
type Stamp struct {
	Store         string // which one: only stamps of one store have an order
	Policy        uint64 // the number of the policy's revision
	Registrations uint64 // how often the store was written
}

// String returns "STORE/POLICY/REGISTRATIONS", or nothing for none. It is system_version_info of responses.
func (s Stamp) String() string {
	if s == (Stamp{}) {
		return ""
	}
	return fmt.Sprintf("%s/%d/%d", s.Store, s.Policy, s.Registrations)
}

// ParseStamp reads what String wrote; ok is false for anything else, as an older server's.
func ParseStamp(text string) (s Stamp, ok bool) {
	parts := strings.Split(text, "/")
	if len(parts) != 3 || parts[0] == "" {
		return Stamp{}, false
	}
	policy, errP := strconv.ParseUint(parts[1], 10, 64)
	registrations, errR := strconv.ParseUint(parts[2], 10, 64)
	if errP != nil || errR != nil {
		return Stamp{}, false
	}
	return Stamp{parts[0], policy, registrations}, true
}

// Before reports whether s is of an earlier time of o's store. Without order it is not.
func (s Stamp) Before(o Stamp) bool {
	return s.Store == o.Store && (s.Policy < o.Policy || s.Registrations < o.Registrations)
}
