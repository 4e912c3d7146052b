// SPDX-License-Identifier: Apache-2.0
/* Names looked up: queries on their way out, where they can be dropped, and answers on their way in. */
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

#define PASS 1
#define DROP 0
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define SOCK_STREAM 1
#define TYPE_A 1
#define TYPE_AAAA 28
#define MESSAGE_MAX 1024 /* power of two: what is read of one message; the rest is told as cut */
#define MESSAGE_MASK (MESSAGE_MAX - 1)
#define HEADER_BYTES 12
#define LABEL_MAX 63
#define RECORDS_MAX 64
#define SCRATCHES 4
/* Messages of one TCP segment that are looked at; what follows them is refused where unknown names are. */
#define MESSAGES_MAX 4

const volatile __u64 hash_basis = 0xcbf29ce484222325ULL;

struct dns_scratch {
	struct dns_event event;
	struct address_key key;
	struct resolved_name name;
	struct match match;
	__u64 name_hash;
	__u32 length;   /* of what stands in `message` */
	__u32 position; /* behind the question */
	__u32 cursor;
	__u32 label_left;
	__u32 has_suffixes;
	__u32 intel_slot;
	__u32 is_bad;
	__u32 is_excepted;
	__u32 is_whole;
	__u32 which;
	__u32 is_taken;
	__u8 message[2 * MESSAGE_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, SCRATCHES);
	__type(key, __u32);
	__type(value, struct dns_scratch);
} dns_scratches SEC(".maps");

static __always_inline struct dns_scratch *scratch(__u32 which)
{
	return bpf_map_lookup_elem(&dns_scratches, &which);
}

/*
 * An answer that arrives interrupts a query that leaves on the same CPU, and either may be preempted: each takes a scratch
 * that nobody has. Answers SCRATCHES where all are taken; then the packet passes and is counted as lost.
 */
static __always_inline __u32 claim(void)
{
	for (__u32 i = 0; i < SCRATCHES; i++) {
		struct dns_scratch *s = scratch(i);

		if (s && __sync_val_compare_and_swap(&s->is_taken, 0, 1) == 0)
			return i;
	}
	return SCRATCHES;
}

static __always_inline __u8 byte_at(struct dns_scratch *s, __u32 at)
{
	return s->message[at & MESSAGE_MASK];
}

static __always_inline __u16 word_at(struct dns_scratch *s, __u32 at)
{
	return (__u16)byte_at(s, at) << 8 | byte_at(s, at + 1);
}

/* One byte of the question's name; 1 ends the loop. */
static __always_inline long read_byte(struct dns_scratch *s, __u32 i)
{
	__u32 from = HEADER_BYTES + i, at;
	__u8 byte;

	if (from >= s->length)
		return 1;
	byte = byte_at(s, from);
	at = s->cursor;
	if (s->label_left == 0) {
		s->is_whole = byte == 0;
		s->position = from + 1;
		if (byte == 0 || byte > LABEL_MAX)
			return 1;
		s->label_left = byte;
		if (at == 0)
			return 0;
		byte = '.';
	} else {
		s->label_left--;
		if (byte == '.' || byte == 0)
			return 1;
		if (byte >= 'A' && byte <= 'Z')
			byte |= 0x20;
	}
	if (at < GABION_DOMAIN_MAX - 1) {
		s->event.name[at & (GABION_DOMAIN_MAX - 1)] = byte;
		s->cursor = at + 1;
	}
	return 0;
}

/* Loops are made by a helper, so that the verifier looks at one round only; some bytes a round, because each is a call. */
#define BYTES_A_ROUND 8

static long read_bytes(__u32 round, __u32 *which)
{
	struct dns_scratch *s = scratch(*which);

	if (!s)
		return 1;
	for (__u32 i = 0; i < BYTES_A_ROUND; i++)
		if (read_byte(s, round * BYTES_A_ROUND + i))
			return 1;
	return 0;
}

/*
 * The question's name in lower case with dots. Refused as malformed: a pointer (the first name has nothing to point
 * to), a dot or NUL inside a label (which would make two names look alike), a name without end.
 */
static __always_inline bool read_question(struct dns_scratch *s)
{
	s->is_whole = 0;
	s->cursor = 0;
	s->label_left = 0;
	__u32 which = s->which;

	bpf_loop(256 / BYTES_A_ROUND, read_bytes, &which, 0);
	s->event.name[s->cursor & (GABION_DOMAIN_MAX - 1)] = 0;
	s->event.name_length = s->cursor;
	return s->is_whole;
}

/* What intelligence says of what the hash so far stands for: of a name that is read from its end, one that it is below. */
static __always_inline void match_intel(struct dns_scratch *s)
{
	struct policy_key key = { .slot = s->intel_slot, .kind = GABION_DOMAIN_BAD, .hash = s->name_hash };
	struct policy_value *value = key.slot ? bpf_map_lookup_elem(&policy, &key) : 0;

	if (!value)
		return;
	if (value->action == GABION_ALLOW)
		s->is_excepted = 1;
	else
		s->is_bad = 1;
}

/* Global, so that the verifier looks at it once and not at each byte. */
__attribute__((noinline)) int match_label(__u32 which)
{
	struct dns_scratch *s = scratch(which);

	if (!s)
		return 0;
	if (s->has_suffixes)
		try_entry(&s->match, s->event.event.slot, GABION_SUFFIX, s->name_hash);
	match_intel(s);
	return 0;
}

/* One byte of the name, from its end: at each dot the state is the hash of what follows it. */
static __always_inline long match_byte(struct dns_scratch *s, __u32 i)
{
	__u8 byte;

	if (i >= s->event.name_length)
		return 1;
	byte = s->event.name[(s->event.name_length - 1 - i) & (GABION_DOMAIN_MAX - 1)];
	if (byte == '.' && (s->has_suffixes || s->intel_slot))
		match_label(s->which);
	s->name_hash = gabion_hash_byte(s->name_hash, byte);
	return 0;
}

static long match_bytes(__u32 round, __u32 *which)
{
	struct dns_scratch *s = scratch(*which);

	if (!s)
		return 1;
	for (__u32 i = 0; i < BYTES_A_ROUND; i++)
		if (match_byte(s, round * BYTES_A_ROUND + i))
			return 1;
	return 0;
}

static __always_inline __u32 match_name(struct dns_scratch *s)
{
	struct slot_defaults *defaults;
	__u32 slot = s->event.event.slot, which = s->which;
	__u64 hash;

	defaults = bpf_map_lookup_elem(&slots, &slot);
	__builtin_memset(&s->match, 0, sizeof(s->match));
	s->has_suffixes = defaults && has_kind(defaults, GABION_SUFFIX);
	s->intel_slot = defaults && defaults->actions[GABION_DEFAULT_BAD_DOMAIN] != GABION_ALLOW ? defaults->intel_slot : 0;
	s->is_bad = 0;
	s->is_excepted = 0;
	s->name_hash = hash_basis;
	bpf_loop(GABION_DOMAIN_MAX / BYTES_A_ROUND, match_bytes, &which, 0);
	hash = s->name_hash;
	if (!defaults)
		return GABION_ASK;
	if (has_kind(defaults, GABION_DOMAIN))
		try_entry(&s->match, slot, GABION_DOMAIN, hash);
	if (s->match.denied) {
		s->event.event.entry = s->match.denied_entry;
		return s->match.denied;
	}
	if (s->match.allowed) {
		s->event.event.entry = s->match.allowed_entry;
		return s->match.asked ? GABION_ASK : GABION_ALLOW;
	}
	match_intel(s);
	if (s->is_bad && !s->is_excepted)
		return defaults->actions[GABION_DEFAULT_BAD_DOMAIN];
	if (has_kind(defaults, GABION_DOMAIN_ITEM)) {
		struct policy_key key = { .slot = slot, .kind = GABION_DOMAIN_ITEM };
		struct policy_value *value;

		key.hash = gabion_hash_join(hash, s->event.record_type);
		value = bpf_map_lookup_elem(&policy, &key);
		if (value)
			s->event.event.entry = value->entry;
		if (value)
			return s->match.asked && value->action == GABION_ALLOW ? GABION_ASK : value->action;
	}
	/* A family may cover it, or something may ask for less than the section: refusing is not for here. */
	return s->match.asked ? GABION_ASK : defaults->actions[GABION_DEFAULT_DOMAIN];
}

/* One label of a record's name. */
static long skip_label(__u32 i, __u32 *which)
{
	struct dns_scratch *s = scratch(*which);
	__u32 at;
	__u8 byte;

	if (!s)
		return 1;
	at = s->cursor;
	s->is_whole = 0;
	if (at >= s->length)
		return 1;
	byte = byte_at(s, at);
	if (byte == 0 || (byte & 0xc0) == 0xc0) {
		s->cursor = at + (byte == 0 ? 1 : 2);
		s->is_whole = 1;
		return 1;
	}
	s->cursor = at + byte + 1;
	return byte > LABEL_MAX;
}

static __always_inline void take_address(struct dns_scratch *s, __u32 at, bool is_ipv4)
{
	__u32 found = s->event.answer_count;
	struct resolved_name *known;

	if (is_ipv4) {
		__u32 ip4;

		bpf_probe_read_kernel(&ip4, 4, &s->message[at & MESSAGE_MASK]);
		map_ipv4(s->key.address, ip4);
	} else {
		bpf_probe_read_kernel(s->key.address, 16, &s->message[at & MESSAGE_MASK]);
	}
	/* Mostly the same answer as before, and writing copies the whole name. */
	known = bpf_map_lookup_elem(&resolved, &s->key);
	if (!known || known->hash != s->name_hash || known->length != s->event.name_length) {
		s->name.hash = s->name_hash;
		s->name.length = s->event.name_length;
		__builtin_memcpy(s->name.name, s->event.name, GABION_DOMAIN_MAX);
		bpf_map_update_elem(&resolved, &s->key, &s->name, BPF_ANY);
	}
	if (found >= GABION_ANSWERS_MAX) {
		s->event.flags |= GABION_DNS_CUT;
		return;
	}
	__builtin_memcpy(s->event.answers[found & (GABION_ANSWERS_MAX - 1)], s->key.address, 16);
	s->event.answer_count = found + 1;
}

/* One record of the answer. */
static long read_record(__u32 i, __u32 *which)
{
	struct dns_scratch *s = scratch(*which);
	__u32 at, type, size;

	if (!s || i >= word_at(s, 6))
		return 1;
	bpf_loop(128, skip_label, which, 0);
	at = s->cursor;
	if (!s->is_whole || at + 10 > s->length) {
		s->event.flags |= GABION_DNS_CUT;
		return 1;
	}
	type = word_at(s, at);
	size = word_at(s, at + 8);
	at += 10;
	if (at + size > s->length) {
		s->event.flags |= GABION_DNS_CUT;
		return 1;
	}
	if ((type == TYPE_A && size == 4) || (type == TYPE_AAAA && size == 16))
		take_address(s, at, size == 4);
	s->cursor = at + size;
	return 0;
}

/* Addresses behind whatever chain of aliases; each is remembered with the name that was asked for. */
static __always_inline void read_answers(struct dns_scratch *s)
{
	s->cursor = s->position + 4;
	__u32 which = s->which;

	bpf_loop(RECORDS_MAX, read_record, &which, 0);
}

struct packet {
	__u32 payload; /* offset of the message */
	__u16 source, destination;
	__u8 transport;
	bool is_ipv6;
	bool is_docker; /* to Docker's resolver, at whatever port */
	bool is_excess; /* behind more messages than are looked at */
};

#define IPV4_BYTES 20
#define IPV6_BYTES 40
#define PORT_BYTES 4
/*
 * Docker's resolver, which nothing else lies at: packets to its port 53 are rewritten to another one before they leave,
 * and a container may find out which.
 */
#define DOCKER_RESOLVER bpf_htonl(0x7f00000b)

/*
 * Finds ports and payload. Headers are read at once: most packets are none of ours, and each call costs. Extension headers
 * of IPv6 and fragments but the first are not followed.
 */
static __always_inline bool find_payload(struct __sk_buff *skb, struct packet *packet)
{
	__u8 head[IPV6_BYTES + PORT_BYTES], offset;
	__be16 *ports = (void *)(head + IPV4_BYTES);
	__be32 destination;
	__u32 at;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, 0, head, IPV4_BYTES + PORT_BYTES) < 0)
			return false;
		packet->transport = head[9];
		__builtin_memcpy(&destination, head + 16, sizeof(destination));
		packet->is_docker = destination == DOCKER_RESOLVER;
		if (head[6] & 0x1f || head[7])
			return false;
		at = (head[0] & 0x0f) * 4;
		if (at != IPV4_BYTES && bpf_skb_load_bytes(skb, at, ports, PORT_BYTES) < 0)
			return false;
	} else if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (bpf_skb_load_bytes(skb, 0, head, IPV6_BYTES + PORT_BYTES) < 0)
			return false;
		packet->transport = head[6];
		packet->is_ipv6 = true;
		at = IPV6_BYTES;
		ports = (void *)(head + IPV6_BYTES);
	} else {
		return false;
	}
	if (packet->transport != IPPROTO_UDP && packet->transport != IPPROTO_TCP)
		return false;
	packet->source = bpf_ntohs(ports[0]);
	packet->destination = bpf_ntohs(ports[1]);
	if (packet->transport == IPPROTO_UDP) {
		packet->payload = at + 8;
		return true;
	}
	if (bpf_skb_load_bytes(skb, at + 12, &offset, 1) < 0)
		return false;
	/* the length that goes before a message over TCP */
	packet->payload = at + (offset >> 4) * 4 + 2;
	return true;
}

/* The other end: of a query its destination, of an answer its source. */
static __always_inline void read_resolver(struct __sk_buff *skb, const struct packet *packet, bool is_answer, __u8 *resolver)
{
	__be32 ip4 = 0;

	if (packet->is_ipv6) {
		bpf_skb_load_bytes(skb, is_answer ? 8 : 24, resolver, 16);
		return;
	}
	bpf_skb_load_bytes(skb, is_answer ? 12 : 16, &ip4, 4);
	map_ipv4(resolver, ip4);
}

static __always_inline bool load_message(struct __sk_buff *skb, struct dns_scratch *s, __u32 payload)
{
	__u32 length = skb->len;

	if (payload >= length)
		return false;
	length -= payload;
	s->event.payload_length = length > 65535 ? 65535 : length;
	if (length > MESSAGE_MAX - 1) {
		length = MESSAGE_MAX - 1;
		s->event.flags |= GABION_DNS_CUT;
	}
	/* so that the verifier sees both bounds */
	asm volatile("" : "+r"(length));
	length &= MESSAGE_MASK;
	if (length == 0)
		return false;
	s->length = length;
	return bpf_skb_load_bytes(skb, payload, s->message, length) == 0;
}

static __always_inline struct cgroup_policy *policy_of(struct __sk_buff *skb)
{
	__u64 id = bpf_skb_cgroup_id(skb);
	struct cgroup_policy *policy = bpf_map_lookup_elem(&cgroups, &id);

	return policy && policy->flags & GABION_CGROUP_BOUND && policy->flags & GABION_CGROUP_DNS ? policy : 0;
}

static __always_inline void begin(struct __sk_buff *skb, struct dns_scratch *s, struct cgroup_policy *policy,
				  const struct packet *packet, bool is_answer)
{
	struct dns_event *event = &s->event;

	begin_event(&event->event, GABION_DNS, sizeof(*event), policy);
	event->flags = packet->transport == IPPROTO_TCP ? GABION_DNS_TCP : 0;
	event->record_type = 0;
	event->question_count = 0;
	event->response_code = 0;
	event->answer_count = 0;
	event->name_length = 0;
	event->payload_length = 0;
	event->name[0] = 0;
	read_resolver(skb, packet, is_answer, event->resolver);
	event->resolver_port = is_answer ? packet->source : packet->destination;
}

/* False where what is there is no question that could be understood. */
static __always_inline bool read_message(struct dns_scratch *s)
{
	if (s->length < HEADER_BYTES)
		return false;
	s->event.question_count = word_at(s, 4);
	if (s->event.question_count != 1 || !read_question(s) || s->position + 4 > s->length)
		return false;
	s->event.record_type = word_at(s, s->position);
	return true;
}


/* Packets mostly leave in the context of who sent them; where they do not, nobody is named. */
static __always_inline void read_sender(struct dns_scratch *s, __u64 cgroup_id)
{
	if (bpf_get_current_cgroup_id() == cgroup_id)
		read_actor(&s->event.actor);
	else
		__builtin_memset(&s->event.actor, 0, sizeof(s->event.actor));
}

static __always_inline int query(struct __sk_buff *skb, struct dns_scratch *s, struct cgroup_policy *policy,
				 struct packet *packet)
{
	struct slot_defaults *defaults;
	struct cgroup_counts *counts;
	__u32 action, slot;
	bool is_query;

	begin(skb, s, policy, packet, false);
	if (!load_message(skb, s, packet->payload))
		return PASS; /* carries nothing: part of a handshake */
	slot = policy->slot;
	counts = counts_of(policy->container_id, SECTION_DNS);
	if (counts)
		__sync_fetch_and_add(&counts->seen, 1);
	is_query = !packet->is_excess && read_message(s);
	if (is_query && byte_at(s, 2) & 0x80) {
		if (packet->source == DNS_PORT) { /* an answer: the container is a resolver itself */
			if (counts)
				__sync_fetch_and_add(&counts->allowed, 1);
			return PASS;
		}
		is_query = false; /* only says that it is one: no resolver sends from there */
	}
	if (is_query) {
		action = match_name(s);
		if (action == GABION_ALLOW && s->match.allowed)
			action = allow_listed(&s->event.event, gabion_hash_join(s->name_hash, s->event.record_type));
	} else {
		s->event.flags |= GABION_DNS_MALFORMED;
		defaults = bpf_map_lookup_elem(&slots, &slot);
		action = defaults ? defaults->actions[GABION_DEFAULT_DOMAIN] : GABION_ASK;
		/* The rest of a message over TCP looks like this too: it is told and let go. */
		if (packet->transport == IPPROTO_TCP && !packet->is_excess)
			action = GABION_ASK;
	}
	action = counted(policy, s->event.event.entry, action);
	if (action == GABION_ALLOW) {
		if (counts)
			__sync_fetch_and_add(&counts->allowed, 1);
		count_entry(policy, s->event.event.entry);
		return PASS;
	}
	s->event.event.frame.outcome = action == GABION_AUDIT ? GABION_AUDITED : GABION_ASKED;
	if (action >= GABION_PREVENT) {
		/* The container is ended by the loader's side: the current task may be anybody's. */
		s->event.event.frame.outcome = action == GABION_BLOCK ? GABION_DENIED_CONTAINER : GABION_DENIED;
		if (counts)
			__sync_fetch_and_add(&counts->killed, 1);
	}
	read_sender(s, bpf_skb_cgroup_id(skb));
	emit(&events, &s->event.event, sizeof(s->event), counts);
	return action >= GABION_PREVENT ? DROP : PASS;
}

/*
 * Goes on to the message behind this one, understood or not: where a segment holds another, and where the kernel is yet to
 * make several datagrams of what was sent at once.
 */
static __always_inline bool next_message(struct __sk_buff *skb, struct packet *packet)
{
	__be16 length;

	if (packet->transport == IPPROTO_UDP) {
		packet->payload += skb->gso_size;
		return skb->gso_size && packet->payload < skb->len;
	}
	if (bpf_skb_load_bytes(skb, packet->payload - 2, &length, 2) < 0)
		return false;
	packet->payload += bpf_ntohs(length) + 2;
	return packet->payload < skb->len;
}

/*
 * A TCP socket that is connected elsewhere than to a resolver has nothing to do with look-ups: told by its own fields,
 * before anything of the packet is read. What Docker rewrites is the packet, not where the socket is connected to. A
 * datagram socket may send elsewhere than it is connected to, so its packets say where they go; so may a raw one, which
 * sends what it likes.
 */
static __always_inline bool is_connected_elsewhere(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	if (!sk || !sk->dst_port || sk->dst_port == bpf_htons(DNS_PORT) || sk->dst_ip4 == DOCKER_RESOLVER)
		return false;
	sk = bpf_sk_fullsock(sk);
	return sk && sk->protocol == IPPROTO_TCP && sk->type == SOCK_STREAM;
}

/* Why this hook: a query that is dropped here never leaves, and its sender is told EPERM at once over UDP. */
SEC("cgroup_skb/egress")
int handle_egress(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct cgroup_policy *policy;
	struct dns_scratch *s;
	__u32 which;
	int verdict = PASS;

	if (is_connected_elsewhere(skb))
		return PASS;
	if (!find_payload(skb, &packet) || (packet.destination != DNS_PORT && !packet.is_docker))
		return PASS;
	policy = policy_of(skb);
	if (!policy)
		return PASS;
	hold_cpu();
	which = claim();
	s = scratch(which);
	if (s) {
		s->which = which;
		for (int i = 0; i <= MESSAGES_MAX; i++) {
			packet.is_excess = i == MESSAGES_MAX;
			verdict = query(skb, s, policy, &packet);
			if (verdict == DROP || !next_message(skb, &packet))
				break;
		}
		s->is_taken = 0;
	} else {
		count_unseen(counts_of(policy->container_id, SECTION_DNS));
	}
	let_cpu_go();
	return verdict;
}

static __always_inline int answer(struct __sk_buff *skb, struct dns_scratch *s, struct cgroup_policy *policy,
				  struct packet *packet)
{
	struct cgroup_counts *counts;
	__u32 action;

	begin(skb, s, policy, packet, true);
	if (!load_message(skb, s, packet->payload) || !read_message(s) || !(byte_at(s, 2) & 0x80))
		return PASS;
	s->event.flags |= GABION_DNS_ANSWER;
	s->event.response_code = byte_at(s, 3) & 0x0f;
	action = match_name(s);
	s->key.container_id = policy->container_id;
	read_answers(s);
	/* Answers to what is known need no telling; a name that does not exist may be a sign. */
	if (action == GABION_ALLOW && s->event.response_code == 0)
		return PASS;
	s->event.event.frame.outcome = GABION_ASKED;
	__builtin_memset(&s->event.actor, 0, sizeof(s->event.actor));
	counts = counts_of(policy->container_id, SECTION_DNS);
	if (counts)
		__sync_fetch_and_add(&counts->seen, 1);
	emit(&events, &s->event.event, sizeof(s->event), counts);
	return PASS;
}

SEC("cgroup_skb/ingress")
int handle_ingress(struct __sk_buff *skb)
{
	struct packet packet = {};
	struct cgroup_policy *policy;
	struct dns_scratch *s;
	__u32 which;

	if (is_connected_elsewhere(skb) || !find_payload(skb, &packet) || packet.source != DNS_PORT)
		return PASS;
	policy = policy_of(skb);
	if (!policy)
		return PASS;
	hold_cpu();
	which = claim();
	s = scratch(which);
	if (s) {
		s->which = which;
		answer(skb, s, policy, &packet);
		s->is_taken = 0;
	} else {
		count_unseen(counts_of(policy->container_id, SECTION_DNS));
	}
	let_cpu_go();
	return PASS;
}
