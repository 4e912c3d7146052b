/* SPDX-License-Identifier: Apache-2.0 */
/* Packet sockets, by whatever way they are opened. */
#ifndef GABION_PACKET_SOCKET_BPF_H
#define GABION_PACKET_SOCKET_BPF_H

#define AF_PACKET 17
#define AF_XDP 44

#define AF_INET 2
#define SOCK_PACKET 10 /* the old way to ask for one: the kernel makes AF_PACKET of it */

/* Sockets that frames are read from and written to, past all that looks at connections. */
static __always_inline bool is_packet_socket(__u32 family, __u32 type)
{
	return family == AF_PACKET || family == AF_XDP || (family == AF_INET && (type & 0xf) == SOCK_PACKET);
}

static __always_inline __u32 default_action(struct cgroup_policy *policy, __u32 which)
{
	__u32 slot = policy->slot;
	struct slot_defaults *defaults = bpf_map_lookup_elem(&slots, &slot);

	return defaults ? defaults->actions[which] : GABION_ASK;
}

struct socket_scratch {
	struct socket_event socket;
	struct redirect_event redirect;
	struct syscall_event syscall;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct socket_scratch);
} socket_scratches SEC(".maps");

static __always_inline struct socket_scratch *socket_scratch(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&socket_scratches, &zero);
}

/* A packet socket is open: nothing stands between it and the wire, so who asked for it dies before it can be used. */
static __always_inline void handle_packet_socket(struct cgroup_policy *policy, __u32 family, __u32 type,
						 __u32 protocol)
{
	struct socket_scratch *s = socket_scratch();
	struct cgroup_counts *counts = counts_of(policy->container_id, SECTION_NETWORK);
	__u32 action = default_action(policy, GABION_DEFAULT_RAW);

	if (!s)
		return;
	if (counts) {
		__sync_fetch_and_add(&counts->seen, 1);
		if (action == GABION_ALLOW)
			__sync_fetch_and_add(&counts->allowed, 1);
	}
	if (action == GABION_ALLOW)
		return;
	begin_event(&s->socket.event, GABION_SOCKET, sizeof(s->socket), policy);
	s->socket.family = family == AF_INET ? AF_PACKET : family;
	s->socket.type = type & 0xf;
	s->socket.protocol = protocol;
	read_actor(&s->socket.actor);
	s->socket.event.frame.outcome = outcome_of(action);
	if (action >= GABION_PREVENT) {
		bpf_send_signal(SIGKILL);
		s->socket.event.frame.outcome = action == GABION_BLOCK ? GABION_KILLED_CONTAINER : GABION_KILLED;
		if (counts)
			__sync_fetch_and_add(&counts->killed, 1);
	}
	if (action == GABION_BLOCK)
		kill_first_process(policy->flags, s->socket.actor.pid_ns);
	emit(&events, &s->socket.event, sizeof(s->socket), counts);
}

#endif
