/* SPDX-License-Identifier: Apache-2.0 */
/* Addresses, what is the Internet, and what was resolved: for all programs that see connections. */
#ifndef GABION_NETWORK_BPF_H
#define GABION_NETWORK_BPF_H

#include <bpf/bpf_endian.h>

#define AF_INET 2
#define AF_INET6 10
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define DNS_PORT 53

struct address_key {
	__u64 container_id;
	__u8 address[16];
};

struct resolved_name {
	__u64 hash; /* of the name */
	__u32 length;
	__u32 reserved;
	__u8 name[GABION_DOMAIN_MAX];
};

/* Addresses that look-ups of a container were answered with. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct address_key);
	__type(value, struct resolved_name);
} resolved SEC(".maps");

static __always_inline void map_ipv4(__u8 *address, __u32 ip4)
{
	__builtin_memset(address, 0, 10);
	address[10] = address[11] = 0xff;
	__builtin_memcpy(address + 12, &ip4, 4);
}

static __always_inline bool is_mapped_ipv4(const __u8 *a)
{
	return !a[0] && !a[1] && !a[2] && !a[3] && !a[4] && !a[5] && !a[6] && !a[7] && !a[8] && !a[9] && a[10] == 0xff &&
	       a[11] == 0xff;
}

static __always_inline bool is_loopback(const __u8 *a)
{
	if (is_mapped_ipv4(a))
		return a[12] == 127 || (!a[12] && !a[13] && !a[14] && !a[15]);
	for (int i = 0; i < 15; i++)
		if (a[i])
			return false;
	return a[15] <= 1; /* ::1, and :: which leads there too */
}

/* Loopback, link-local, RFC 1918, unique local addresses and multicast are not the Internet. */
static __always_inline bool is_internal(const __u8 *a)
{
	if (is_loopback(a))
		return true;
	if (is_mapped_ipv4(a))
		return a[12] == 10 || (a[12] == 172 && (a[13] & 0xf0) == 16) || (a[12] == 192 && a[13] == 168) ||
		       (a[12] == 169 && a[13] == 254) || a[12] >= 224;
	return (a[0] & 0xfe) == 0xfc || (a[0] == 0xfe && (a[1] & 0xc0) == 0x80) || a[0] == 0xff;
}

static __always_inline void port_bytes(__u8 *bytes, __u8 transport, __u16 port)
{
	bytes[0] = transport;
	bytes[1] = port >> 8;
	bytes[2] = port;
}

/* Ports that the kernel gives to sockets that did not choose: the default of net.ipv4.ip_local_port_range. */
const volatile __u16 ephemeral_first = 32768;
const volatile __u16 ephemeral_last = 60999;

static __always_inline bool is_ephemeral(__u16 port)
{
	return port >= ephemeral_first && port <= ephemeral_last;
}

static __always_inline __u32 denied_listen(struct listen_event *event)
{
	__u32 slot = event->event.slot;
	struct slot_defaults *defaults = bpf_map_lookup_elem(&slots, &slot);
	struct policy_value *value;
	__u8 port[3];

	port_bytes(port, event->transport, event->port);
	value = defaults ? find_prefix(defaults, slot, GABION_LISTEN_DENIED, port, 24) : 0;
	return value ? value->action : GABION_ALLOW;
}

/* A port of the range that the kernel chooses from says nothing: the model knows such ports as one class, port 0. */
static __always_inline __u32 decide_listen(struct listen_event *event)
{
	__u32 slot = event->event.slot;
	struct slot_defaults *defaults = bpf_map_lookup_elem(&slots, &slot);
	struct policy_value *value;
	__u8 port[3];

	if (!defaults)
		return GABION_ASK;
	port_bytes(port, event->transport, event->port);
	value = find_prefix(defaults, slot, GABION_LISTEN_DENIED, port, 24);
	if (value) {
		event->event.entry = value->entry;
		return value->action;
	}
	value = find_prefix(defaults, slot, GABION_LISTEN_ALLOWED, port, 24);
	if (!value && event->flags & GABION_LISTEN_EPHEMERAL) {
		port_bytes(port, event->transport, 0);
		value = find_prefix(defaults, slot, GABION_LISTEN_ALLOWED, port, 24);
	}
	if (!value)
		return defaults->actions[GABION_DEFAULT_LISTEN];
	event->event.entry = value->entry;
	return value->action;
}

#endif
