package planpb

// PassedPriority is the priority (SO_PRIORITY, socket(7)) of connections by which a proxy carries what a captured workload sent
// to its destination as it is: the host's rules of guard know them by it. Every process may set priorities up to 6, and this one
// is queued like the default.
const PassedPriority = 4
