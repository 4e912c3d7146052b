// SPDX-License-Identifier: Apache-2.0
/* What becomes of sockets: listening ones, first contacts, and attempts that came to nothing. */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "gabion_wire.h"
#include "maps.bpf.h"
#include "path_walk.bpf.h"
#define READS_ACTOR
#include "actor.bpf.h"
#include "policy.bpf.h"
#include "act.bpf.h"
#include "network.bpf.h"

char LICENSE[] SEC("license") = "GPL";

#define TCP_ESTABLISHED 1 /* of a UDP socket: it is connected */
#define TCP_SYN_SENT 2
#define TCP_CLOSE 7
#define TCP_LISTEN 10
#define SOCK_BINDPORT_LOCK 8
#define ECONNREFUSED 111

struct contact_key {
	__u64 container_id;
	__u8 address[16];
	__u32 port;
	__u32 transport;
};

/* Destinations that answered once: a service that fails later is not a scan. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct contact_key);
	__type(value, __u8);
} contacts SEC(".maps");

struct tcp_scratch {
	struct listen_event listen;
	struct contact_event contact;
	struct contact_key key;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct tcp_scratch);
} tcp_scratches SEC(".maps");

static __always_inline void read_address(__u8 *target, const struct sock *sk, bool is_remote)
{
	const struct sock_common *common = &sk->__sk_common;

	if (common->skc_family == AF_INET6) {
		bpf_core_read(target, 16, is_remote ? &common->skc_v6_daddr : &common->skc_v6_rcv_saddr);
		return;
	}
	map_ipv4(target, is_remote ? common->skc_daddr : common->skc_rcv_saddr);
}

/* Listening cannot be refused here: who does it although bind would have been refused dies before listen returns. */
static __always_inline int listens(const struct sock *sk)
{
	__u64 id = bpf_get_current_cgroup_id();
	struct cgroup_policy *policy = bpf_map_lookup_elem(&cgroups, &id);
	__u32 zero = 0, action;
	struct tcp_scratch *s = bpf_map_lookup_elem(&tcp_scratches, &zero);
	struct listen_event *event;
	struct cgroup_counts *counts;

	if (!s || !policy || !(policy->flags & GABION_CGROUP_BOUND) || !(policy->flags & GABION_CGROUP_NETWORK))
		return 0;
	event = &s->listen;
	event->port = sk->__sk_common.skc_num;
	event->transport = IPPROTO_TCP;
	event->family = sk->__sk_common.skc_family == AF_INET6 ? 6 : 4;
	event->flags = 0;
	/* Four bits of a byte before 6.9. */
	if (!(BPF_CORE_READ_BITFIELD(sk, sk_userlocks) & SOCK_BINDPORT_LOCK) || is_ephemeral(event->port))
		event->flags = GABION_LISTEN_EPHEMERAL;
	read_address(event->address, sk, false);
	counts = counts_of(policy->container_id, SECTION_NETWORK);
	if (counts)
		__sync_fetch_and_add(&counts->seen, 1);
	begin_event(&event->event, GABION_LISTEN, sizeof(*event), policy);
	action = decide_listen(event);
	action = counted(policy, event->event.entry, action);
	if (action == GABION_ALLOW) {
		if (counts)
			__sync_fetch_and_add(&counts->allowed, 1);
		count_entry(policy, event->event.entry);
		return 0;
	}
	read_actor(&event->actor);
	event->event.frame.outcome = action == GABION_AUDIT ? GABION_AUDITED : GABION_ASKED;
	if (action >= GABION_PREVENT) {
		bpf_send_signal(SIGKILL);
		event->event.frame.outcome = GABION_KILLED;
		if (counts)
			__sync_fetch_and_add(&counts->killed, 1);
	}
	if (action == GABION_BLOCK) {
		event->event.frame.outcome = GABION_KILLED_CONTAINER;
		kill_first_process(policy->flags, event->actor.pid_ns);
	}
	emit(&events, &event->event, sizeof(*event), counts);
	return 0;
}

/* In interrupt context: the container is the socket's, not the current task's. */
static __always_inline int contacted(const struct sock *sk, __u8 transport, bool is_failed)
{
	__u64 id = sk->sk_cgrp_data.cgroup->kn->id;
	struct cgroup_policy *policy = bpf_map_lookup_elem(&cgroups, &id);
	__u32 zero = 0;
	struct tcp_scratch *s = bpf_map_lookup_elem(&tcp_scratches, &zero);
	struct contact_event *event;
	struct cgroup_counts *counts;
	__u8 yes = 1;

	if (!s || !policy || !(policy->flags & GABION_CGROUP_BOUND) || !(policy->flags & GABION_CGROUP_NETWORK))
		return 0;
	event = &s->contact;
	read_address(event->address, sk, true);
	event->port = bpf_ntohs(sk->__sk_common.skc_dport);
	s->key.container_id = policy->container_id;
	__builtin_memcpy(s->key.address, event->address, 16);
	s->key.port = event->port;
	s->key.transport = transport;
	if (bpf_map_lookup_elem(&contacts, &s->key))
		return 0;
	if (!is_failed)
		bpf_map_update_elem(&contacts, &s->key, &yes, BPF_ANY);
	begin_event(&event->event, GABION_CONTACT, sizeof(*event), policy);
	event->transport = transport;
	event->is_failed = is_failed;
	event->error = sk->sk_err;
	counts = counts_of(policy->container_id, SECTION_CONTACTS);
	if (counts)
		__sync_fetch_and_add(&counts->seen, 1);
	emit(&bulk, &event->event, sizeof(*event), counts);
	return 0;
}

/* Why this hook: the one place that sees every TCP socket change its state, with error and addresses still in place. */
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(handle_state, const struct sock *sk, int old_state, int new_state)
{
	if (new_state != TCP_LISTEN && old_state != TCP_SYN_SENT)
		return 0;
	if (sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (new_state == TCP_LISTEN)
		return listens(sk);
	if (new_state == TCP_ESTABLISHED || new_state == TCP_CLOSE)
		return contacted(sk, IPPROTO_TCP, new_state == TCP_CLOSE);
	return 0;
}

/*
 * Why this hook: a message that nobody listens at a port comes back here, to the socket that is connected to it. Sockets
 * that are not connected are told only where they asked for it, and then without the destination.
 */
SEC("tp_btf/inet_sk_error_report")
int BPF_PROG(handle_error, const struct sock *sk)
{
	if (sk->sk_protocol != IPPROTO_UDP || sk->__sk_common.skc_state != TCP_ESTABLISHED)
		return 0;
	/* Time stamps, sent pages and the size of the way are told by the same means. */
	if (sk->sk_err != ECONNREFUSED)
		return 0;
	return contacted(sk, IPPROTO_UDP, true);
}
