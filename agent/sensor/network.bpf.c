// SPDX-License-Identifier: Apache-2.0
/* Connections, datagrams, bound ports and raw sockets, decided before the act: returning 0 fails it with EPERM. */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>
#include "gabion_wire.h"
#include "gabion_hash.h"
#include "maps.bpf.h"
#include "path_walk.bpf.h"
#define READS_ACTOR
#include "actor.bpf.h"
#include "policy.bpf.h"
#include "act.bpf.h"
#include "network.bpf.h"
#include "hold_cpu.bpf.h"

char LICENSE[] SEC("license") = "GPL";

const volatile __u64 hash_basis = 0xcbf29ce484222325ULL;

#define SOCK_STREAM 1
#define SOCK_RAW 3
#define IPPROTO_ICMP 1
#define IPPROTO_ICMPV6 58
#define IPPROTO_MPTCP 262 /* of TCP connections, which come by here one by one */
#define ALLOWED 1
#define REFUSED 0
#define SCRATCHES 4
#define KNOWN_DESTINATIONS 32 /* a power of two */
/* 0.25 to 2.5 seconds, as the kernel is built: so long a list that lets through is told late, at most. */
#define KNOWN_JIFFIES 256

/* A destination that a version of a policy lets through without a word: found here, four look-ups are saved. */
struct known_destination {
	__u64 container_id;
	__u64 until; /* in jiffies */
	__u64 address[2];
	__u32 slot;
	__u32 entry;
	__u16 port;
	__u8 transport;
	__u8 reserved[13];
};

struct network_scratch {
	struct connect_event connect;
	struct listen_event listen;
	struct socket_event socket;
	struct address_key key;
	__u64 is_taken;
	__u64 hangs_on_port; /* the verdict is right for the socket's own port only */
	struct known_destination known[KNOWN_DESTINATIONS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCHES);
	__type(key, __u32);
	__type(value, struct network_scratch);
} network_scratches SEC(".maps");

/*
 * What interrupts a program may be another one, and where a processor cannot be held it may be preempted: each takes a
 * scratch that nobody has on its CPU. Null where all are taken; then the act passes and is counted as lost.
 */
static __always_inline struct network_scratch *claim(void)
{
	for (__u32 i = 0; i < SCRATCHES; i++) {
		struct network_scratch *s = bpf_map_lookup_elem(&network_scratches, &i);

		if (s && __sync_val_compare_and_swap(&s->is_taken, 0, 1) == 0)
			return s;
	}
	return 0;
}

static __always_inline struct cgroup_policy *watched(void)
{
	__u64 id = bpf_get_current_cgroup_id();
	struct cgroup_policy *policy = bpf_map_lookup_elem(&cgroups, &id);

	return policy && policy->flags & GABION_CGROUP_BOUND && policy->flags & GABION_CGROUP_NETWORK ? policy : 0;
}

static __always_inline int let_through(const struct gabion_event *event, const struct cgroup_policy *policy,
				       struct cgroup_counts *counts)
{
	if (counts)
		__sync_fetch_and_add(&counts->allowed, 1);
	count_entry(policy, event->entry);
	return ALLOWED;
}

/* Notes what is done, and answers what the hook returns. The first process ends here where that is safe. */
static __always_inline int conclude(struct gabion_event *event, struct gabion_actor *actor, __u64 length, __u32 action,
				    const struct cgroup_policy *policy, struct cgroup_counts *counts)
{
	if (action == GABION_ALLOW)
		return let_through(event, policy, counts);
	event->frame.outcome = action == GABION_AUDIT ? GABION_AUDITED : GABION_ASKED;
	read_actor(actor);
	if (action == GABION_PREVENT)
		event->frame.outcome = GABION_DENIED;
	if (action == GABION_BLOCK) {
		event->frame.outcome = GABION_DENIED_CONTAINER;
		kill_first_process(policy->flags, actor->pid_ns);
	}
	if (action >= GABION_PREVENT && counts)
		__sync_fetch_and_add(&counts->killed, 1);
	emit(&events, event, length, counts);
	return action >= GABION_PREVENT ? REFUSED : ALLOWED;
}

static __always_inline __u64 destination_hash(const struct connect_event *event)
{
	__u64 high, low;

	__builtin_memcpy(&high, event->address, 8);
	__builtin_memcpy(&low, event->address + 8, 8);
	high = gabion_hash_join(gabion_hash_join(hash_basis, high), low);
	return gabion_hash_join(high, (__u64)event->transport << 16 | event->port);
}

static __always_inline __u32 decide_internal(struct connect_event *event, const struct slot_defaults *defaults)
{
	struct policy_key key = { .slot = event->event.slot, .kind = GABION_DESTINATION_ITEM };
	__u32 action = defaults->actions[GABION_DEFAULT_INTERNAL];
	struct policy_value *value;

	key.hash = destination_hash(event);
	if (action == GABION_ALLOW)
		return allow_listed(&event->event, key.hash);
	value = has_kind(defaults, GABION_DESTINATION_ITEM) ? bpf_map_lookup_elem(&policy, &key) : 0;
	if (!value)
		return action;
	event->event.entry = value->entry;
	return value->action;
}

/* The entry of the allowed list for a destination: its address, or its port on the Internet. */
static __always_inline struct policy_value *find_allowed(const struct connect_event *event, const struct slot_defaults *defaults,
							 const __u8 *port)
{
	__u32 slot = event->event.slot;
	struct policy_value *value = find_prefix(defaults, slot, GABION_ADDRESS_ALLOWED, event->address, 128);

	if (!value && event->flags & GABION_CONNECT_INTERNET)
		value = find_prefix(defaults, slot, GABION_PORT_ALLOWED, port, 24);
	return value;
}

/* Intelligence is the same for all policies, and long: it stands in a slot that they refer to. */
static __always_inline bool is_bad_address(const struct slot_defaults *defaults, const __u8 *address)
{
	struct prefix_key key = { .prefix = 64 + 128, .slot = defaults->intel_slot, .kind = GABION_ADDRESS_BAD };

	if (!key.slot || defaults->actions[GABION_DEFAULT_BAD_ADDRESS] == GABION_ALLOW)
		return false;
	__builtin_memcpy(key.bytes, address, 16);
	if (!bpf_map_lookup_elem(&prefixes, &key))
		return false;
	key.kind = GABION_ADDRESS_EXCEPTED;
	return !bpf_map_lookup_elem(&prefixes, &key);
}

/* What the allowed list, the model and the defaults say of a destination that nothing denies. */
static __always_inline __u32 decide_known(struct network_scratch *s, const struct slot_defaults *defaults, const __u8 *port,
					  struct policy_value *value)
{
	struct connect_event *event = &s->connect;
	__u32 slot = event->event.slot;

	if (value) {
		event->event.entry = value->entry;
		return value->action == GABION_ALLOW ? allow_listed(&event->event, destination_hash(event)) : value->action;
	}
	if (event->flags & GABION_CONNECT_LOOPBACK)
		return GABION_ALLOW;
	if (!(event->flags & GABION_CONNECT_INTERNET))
		return decide_internal(event, defaults);
	value = find_prefix(defaults, slot, GABION_PORT_LEARNED, port, 24);
	if (!value)
		return defaults->actions[GABION_DEFAULT_CONNECT];
	event->event.entry = value->entry;
	if (event->flags & GABION_CONNECT_DIRECT && !find_prefix(defaults, slot, GABION_DIRECT, event->address, 128))
		return defaults->actions[GABION_DEFAULT_DIRECT];
	return GABION_ALLOW;
}

/*
 * A server that answers sends from the port that it is known for to whatever port its client has: that is no destination
 * of its own, neither to be learned nor to be refused. While the model learns any port of a server will do.
 */
static __always_inline bool is_answer(const struct connect_event *event, const struct slot_defaults *defaults, __u32 own_port)
{
	__u8 port[3];

	if (!own_port || is_ephemeral(own_port) || !is_ephemeral(event->port))
		return false;
	port_bytes(port, event->transport, own_port);
	return defaults->actions[GABION_DEFAULT_INTERNAL] == GABION_ASK ||
	       find_prefix(defaults, event->event.slot, GABION_LISTEN_ALLOWED, port, 24);
}

/* What detectors say of a port off the Internet: of another's, or of the container's own too. */
static __always_inline struct policy_value *find_internal(const struct connect_event *event, const struct slot_defaults *defaults,
							  const __u8 *port)
{
	__u32 slot = event->event.slot;
	struct policy_value *value = find_prefix(defaults, slot, GABION_PORT_INTERNAL, port, 24);

	if (value || event->flags & GABION_CONNECT_LOOPBACK)
		return value;
	return find_prefix(defaults, slot, GABION_PORT_LATERAL, port, 24);
}

static __always_inline __u32 decide_connect(struct network_scratch *s, __u32 own_port)
{
	struct connect_event *event = &s->connect;
	__u32 slot = event->event.slot, action;
	struct slot_defaults *defaults = bpf_map_lookup_elem(&slots, &slot);
	struct policy_value *value, *allowed;
	struct match match = {};
	bool is_asked_first;
	__u8 port[3];

	if (!defaults)
		return GABION_ASK;
	port_bytes(port, event->transport, event->port);
	if (event->flags & GABION_CONNECT_INTERNET && find_prefix(defaults, slot, GABION_INTERNAL, event->address, 128))
		event->flags &= ~GABION_CONNECT_INTERNET;
	value = find_prefix(defaults, slot, GABION_ADDRESS_DENIED, event->address, 128);
	take_entry(&match, value);
	is_asked_first = match.asked;
	/* Off the Internet only detectors look at ports: what is said of the address comes before them. */
	if (event->flags & GABION_CONNECT_INTERNET)
		value = find_prefix(defaults, slot, GABION_PORT_DENIED, port, 24);
	else
		value = value ? 0 : find_internal(event, defaults, port);
	take_entry(&match, value);
	if (match.denied) {
		event->event.entry = match.denied_entry;
		return match.denied;
	}
	/* Ports of the Internet are asked about for resolvers' sake, whatever else is said of the destination. */
	if (!(event->flags & GABION_CONNECT_INTERNET))
		is_asked_first = match.asked;
	allowed = find_allowed(event, defaults, port);
	if (is_answer(event, defaults, own_port)) {
		s->hangs_on_port = 1;
		event->flags |= GABION_CONNECT_ANSWER;
	}
	if (!allowed && is_bad_address(defaults, event->address)) {
		/* What a detector asks about an address comes before intelligence, and may want less. */
		action = is_asked_first ? GABION_ASK : defaults->actions[GABION_DEFAULT_BAD_ADDRESS];
		/* Who was asked may be made to answer anybody: refused, but nobody is stopped for it. */
		if (s->hangs_on_port && action == GABION_BLOCK)
			action = GABION_PREVENT;
	} else if (s->hangs_on_port) {
		action = GABION_ALLOW;
	} else {
		action = decide_known(s, defaults, port, allowed);
	}
	/* A detector that only wants to be told does not make room for what would be refused. */
	return match.asked && action == GABION_ALLOW ? GABION_ASK : action;
}

/*
 * Whoever is asked for names and was not given as a resolver is acted upon besides, whatever else is said of the destination.
 * Here and not where look-ups leave: an address may be rewritten on the way there, and this is the one that was asked for.
 * What stays in the container, or is its engine's, is none; nor is who is answered by a container that may be a resolver
 * itself, and who asked from the same port.
 */
static __always_inline __u32 decide_resolver(struct connect_event *event, __u32 own_port, __u32 action)
{
	__u32 slot = event->event.slot, wanted;
	struct slot_defaults *defaults;
	__u8 port[3];

	if (event->port != DNS_PORT || event->flags & GABION_CONNECT_LOOPBACK)
		return action;
	defaults = bpf_map_lookup_elem(&slots, &slot);
	if (!defaults || !has_kind(defaults, GABION_RESOLVER))
		return action;
	port_bytes(port, event->transport, DNS_PORT);
	/* As `is_answer` has it. */
	if (own_port == DNS_PORT && (defaults->actions[GABION_DEFAULT_LISTEN] == GABION_ALLOW ||
				     defaults->actions[GABION_DEFAULT_INTERNAL] == GABION_ASK ||
				     find_prefix(defaults, slot, GABION_LISTEN_ALLOWED, port, 24)))
		return action;
	wanted = defaults->actions[GABION_DEFAULT_FOREIGN_RESOLVER];
	if (wanted == GABION_ALLOW || find_prefix(defaults, slot, GABION_RESOLVER, event->address, 128))
		return action;
	event->flags |= GABION_CONNECT_FOREIGN_RESOLVER;
	return wanted > action ? wanted : action;
}

static __always_inline struct resolved_name *resolved_of(struct network_scratch *s, const struct cgroup_policy *policy)
{
	if (!(policy->flags & GABION_CGROUP_DNS))
		return 0;
	s->key.container_id = policy->container_id;
	__builtin_memcpy(s->key.address, s->connect.address, 16);
	return bpf_map_lookup_elem(&resolved, &s->key);
}

/* The name that an address was last resolved from, for an event that is sent. */
static __always_inline void read_domain(struct network_scratch *s, const struct cgroup_policy *policy)
{
	struct connect_event *event = &s->connect;
	struct resolved_name *name = resolved_of(s, policy);

	event->domain_length = 0;
	event->domain[0] = 0;
	if (!name)
		return;
	event->domain_length = name->length;
	__builtin_memcpy(event->domain, name->name, GABION_DOMAIN_MAX);
}

static __always_inline struct known_destination *place_of(struct network_scratch *s)
{
	const struct connect_event *event = &s->connect;

	return &s->known[(event->address[15] * 7 + event->address[14] + event->port) & (KNOWN_DESTINATIONS - 1)];
}

/* True where the same destination has just been let through by the same version of the policy. */
static __always_inline bool is_known(const struct known_destination *known, const struct connect_event *event,
				     const struct cgroup_policy *policy)
{
	__u64 address[2];

	__builtin_memcpy(address, event->address, 16);
	return known->slot == policy->slot && known->container_id == policy->container_id && known->port == event->port &&
	       known->transport == event->transport && known->until > bpf_jiffies64() &&
	       known->address[0] == address[0] && known->address[1] == address[1];
}

static __always_inline void remember(struct known_destination *known, const struct connect_event *event,
				     const struct cgroup_policy *policy)
{
	known->container_id = policy->container_id;
	known->until = bpf_jiffies64() + KNOWN_JIFFIES;
	known->slot = policy->slot;
	known->entry = event->event.entry;
	known->port = event->port;
	known->transport = event->transport;
	__builtin_memcpy(known->address, event->address, 16);
}

static __always_inline int destination(struct bpf_sock_addr *context, struct network_scratch *s,
				       struct cgroup_policy *policy, bool is_ipv6, __u32 flags)
{
	struct connect_event *event = &s->connect;
	struct known_destination *known;
	struct cgroup_counts *counts;
	__u32 action, own_port;

	if (is_ipv6) {
		__u32 parts[4] = { context->user_ip6[0], context->user_ip6[1], context->user_ip6[2], context->user_ip6[3] };

		__builtin_memcpy(event->address, parts, 16);
	} else {
		map_ipv4(event->address, context->user_ip4);
	}
	event->port = bpf_ntohs(context->user_port);
	event->transport = context->protocol;
	/* Libraries connect datagram sockets to port 0 to learn their own address: nothing is ever sent there. */
	if (event->port == 0 && event->transport != IPPROTO_TCP)
		return ALLOWED;
	counts = counts_of(policy->container_id, SECTION_NETWORK);
	if (counts)
		__sync_fetch_and_add(&counts->seen, 1);
	known = place_of(s);
	if (is_known(known, event, policy)) {
		event->event.entry = known->entry;
		return let_through(&event->event, policy, counts);
	}
	event->family = is_mapped_ipv4(event->address) ? 4 : 6;
	event->flags = flags;
	if (is_loopback(event->address))
		event->flags |= GABION_CONNECT_LOOPBACK;
	else if (!is_internal(event->address))
		event->flags |= GABION_CONNECT_INTERNET;
	begin_event(&event->event, GABION_CONNECT, sizeof(*event), policy);
	/* Where DNS is watched, that nothing was looked up before is a fact of its own. */
	if (event->flags & GABION_CONNECT_INTERNET && policy->flags & GABION_CGROUP_DNS && !resolved_of(s, policy))
		event->flags |= GABION_CONNECT_DIRECT;
	s->hangs_on_port = 0;
	own_port = flags & GABION_CONNECT_DATAGRAM && context->sk ? context->sk->src_port : 0;
	action = decide_connect(s, own_port);
	action = decide_resolver(event, own_port, counted(policy, event->event.entry, action));
	if (action != GABION_ALLOW)
		read_domain(s, policy);
	else if (!s->hangs_on_port)
		remember(known, event, policy);
	return conclude(&event->event, &event->actor, sizeof(*event), action, policy, counts);
}

/* Takes a scratch for one act, and gives it back. */
#define WITH_SCRATCH(policy, act)                                                                                      \
	({                                                                                                             \
		struct network_scratch *s;                                                                             \
		int verdict = ALLOWED;                                                                                 \
		hold_cpu();                                                                                            \
		s = claim();                                                                                           \
		if (s) {                                                                                               \
			verdict = act;                                                                                 \
			s->is_taken = 0;                                                                               \
		} else {                                                                                               \
			count_unseen(counts_of((policy)->container_id, SECTION_NETWORK));                              \
		}                                                                                                      \
		let_cpu_go();                                                                                          \
		verdict;                                                                                               \
	})

static __always_inline int handle_destination(struct bpf_sock_addr *context, bool is_ipv6, __u32 flags)
{
	struct cgroup_policy *policy = watched();

	return policy ? WITH_SCRATCH(policy, destination(context, s, policy, is_ipv6, flags)) : ALLOWED;
}

SEC("cgroup/connect4")
int handle_connect4(struct bpf_sock_addr *context)
{
	return handle_destination(context, false, 0);
}

SEC("cgroup/connect6")
int handle_connect6(struct bpf_sock_addr *context)
{
	return handle_destination(context, true, 0);
}

/* Only sockets that are not connected come by here. */
SEC("cgroup/sendmsg4")
int handle_sendmsg4(struct bpf_sock_addr *context)
{
	return handle_destination(context, false, GABION_CONNECT_DATAGRAM);
}

SEC("cgroup/sendmsg6")
int handle_sendmsg6(struct bpf_sock_addr *context)
{
	return handle_destination(context, true, GABION_CONNECT_DATAGRAM);
}

static __always_inline void begin_listen(struct listen_event *event, struct cgroup_policy *policy, __u32 transport, __u16 port)
{
	event->port = port;
	event->transport = transport;
	event->flags = GABION_LISTEN_BIND;
	if (is_ephemeral(port))
		event->flags |= GABION_LISTEN_EPHEMERAL;
	begin_event(&event->event, GABION_LISTEN, sizeof(*event), policy);
}

static __always_inline int conclude_listen(struct listen_event *event, struct cgroup_policy *policy, __u32 action)
{
	struct cgroup_counts *counts;

	if (action == GABION_ALLOW && !event->event.entry)
		return ALLOWED;
	action = counted(policy, event->event.entry, action);
	counts = counts_of(policy->container_id, SECTION_NETWORK);
	if (counts)
		__sync_fetch_and_add(&counts->seen, 1);
	return conclude(&event->event, &event->actor, sizeof(*event), action, policy, counts);
}

/*
 * Why these hooks: only here it can be told who chose a port of the range that the kernel chooses from. A socket for
 * datagrams that did so waits for somebody; one that left it to the kernel is mostly a client's.
 */
static __always_inline int chosen(struct bpf_sock_addr *context, struct network_scratch *s, struct cgroup_policy *policy,
				  bool is_ipv6)
{
	struct listen_event *event = &s->listen;

	begin_listen(event, policy, IPPROTO_UDP, bpf_ntohs(context->user_port));
	if (is_ipv6) {
		__u32 parts[4] = { context->user_ip6[0], context->user_ip6[1], context->user_ip6[2], context->user_ip6[3] };

		__builtin_memcpy(event->address, parts, 16);
	} else {
		map_ipv4(event->address, context->user_ip4);
	}
	event->family = is_ipv6 ? 6 : 4;
	return conclude_listen(event, policy, decide_listen(event));
}

static __always_inline int handle_bind(struct bpf_sock_addr *context, bool is_ipv6)
{
	struct cgroup_policy *policy;

	if (context->protocol != IPPROTO_UDP || !context->user_port || !is_ephemeral(bpf_ntohs(context->user_port)))
		return ALLOWED;
	policy = watched();
	return policy ? WITH_SCRATCH(policy, chosen(context, s, policy, is_ipv6)) : ALLOWED;
}

SEC("cgroup/bind4")
int handle_bind4(struct bpf_sock_addr *context)
{
	return handle_bind(context, false);
}

SEC("cgroup/bind6")
int handle_bind6(struct bpf_sock_addr *context)
{
	return handle_bind(context, true);
}

/*
 * Why this hook: the port is final and nothing has arrived yet. A TCP socket is told when it listens; here it is only
 * refused, because a client may bind too.
 */
static __always_inline int bound(struct bpf_sock *sk, struct network_scratch *s, struct cgroup_policy *policy,
				 bool is_ipv6)
{
	struct listen_event *event = &s->listen;
	__u32 action;

	begin_listen(event, policy, sk->protocol, sk->src_port);
	if (is_ipv6) {
		__u32 parts[4] = { sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3] };

		__builtin_memcpy(event->address, parts, 16);
	} else {
		map_ipv4(event->address, sk->src_ip4);
	}
	event->family = is_ipv6 ? 6 : 4;
	/* Sockets of clients have such ports too: only what is denied by its number is refused here, the rest not told. */
	action = event->flags & GABION_LISTEN_EPHEMERAL ? denied_listen(event) : decide_listen(event);
	if (event->transport == IPPROTO_TCP && action < GABION_PREVENT)
		return ALLOWED; /* told when it listens */
	return conclude_listen(event, policy, action);
}

static __always_inline int handle_bound(struct bpf_sock *sk, bool is_ipv6)
{
	struct cgroup_policy *policy = watched();

	if (!policy || (sk->protocol != IPPROTO_TCP && sk->protocol != IPPROTO_UDP))
		return ALLOWED;
	return WITH_SCRATCH(policy, bound(sk, s, policy, is_ipv6));
}

SEC("cgroup/post_bind4")
int handle_post_bind4(struct bpf_sock *sk)
{
	return handle_bound(sk, false);
}

SEC("cgroup/post_bind6")
int handle_post_bind6(struct bpf_sock *sk)
{
	return handle_bound(sk, true);
}

static __always_inline int raw_socket(struct bpf_sock *sk, struct network_scratch *s, struct cgroup_policy *policy)
{
	struct socket_event *event = &s->socket;
	__u32 slot = policy->slot, action;
	struct slot_defaults *defaults = bpf_map_lookup_elem(&slots, &slot);
	struct cgroup_counts *counts;

	event->family = sk->family;
	event->type = sk->type;
	event->protocol = sk->protocol;
	counts = counts_of(policy->container_id, SECTION_NETWORK);
	if (counts)
		__sync_fetch_and_add(&counts->seen, 1);
	begin_event(&event->event, GABION_SOCKET, sizeof(*event), policy);
	action = GABION_ASK;
	if (defaults)
		action = defaults->actions[sk->protocol == IPPROTO_ICMP || sk->protocol == IPPROTO_ICMPV6 ?
						   GABION_DEFAULT_RAW_ICMP :
						   GABION_DEFAULT_RAW];
	return conclude(&event->event, &event->actor, sizeof(*event), action, policy, counts);
}

/*
 * Connections of other transports, UDP-Lite and SCTP among them, never come by here: their sockets are taken for what they
 * can be used as, a way around. So are sockets for echo requests, which carry any bytes to any address.
 */
static __always_inline bool is_followed_transport(__u32 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_MPTCP;
}

/* Sees AF_INET and AF_INET6 only, by whatever way they are opened, io_uring too; packet sockets are seen at sys_exit. */
SEC("cgroup/sock_create")
int handle_sock_create(struct bpf_sock *sk)
{
	struct cgroup_policy *policy;

	if (sk->type != SOCK_RAW && is_followed_transport(sk->protocol))
		return ALLOWED;
	policy = watched();
	return policy ? WITH_SCRATCH(policy, raw_socket(sk, s, policy)) : ALLOWED;
}
