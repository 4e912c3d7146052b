// SPDX-License-Identifier: Apache-2.0
/* From the ring buffer to the pipe, with what must happen at once on the way: holding and ending containers. */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <stdlib.h>
#include <string.h>
#include "sensor.h"

/* Of some two thousand containers; a frame of the wire holds no more. */
#define STATS_ROWS_MAX 12288

/* Programs that make control groups for containers, by the first 15 bytes of their names. */
static const char *const runtimes[] = { "runc", "crun", "youki", "runsc", "containerd-shim", "conmon" };

static bool is_runtime(const __u8 *comm)
{
	for (size_t i = 0; i < sizeof(runtimes) / sizeof(*runtimes); i++)
		if (strncmp((const char *)comm, runtimes[i], strlen(runtimes[i])) == 0)
			return true;
	return false;
}

static void handle_cgroup(struct events_context *context, const struct cgroup_event *seen)
{
	struct cgroup_event event = *seen; /* ring pages are read-only here */

	event.path[sizeof(event.path) - 1] = 0;
	if (event.event.frame.type == GABION_CGROUP_NEW && !(event.flags & GABION_CGROUP_NESTED) &&
	    context->options->hold_ms && (context->options->is_holding_all || is_runtime(event.comm)) &&
	    groups_hold(context->options, (const char *)event.path, event.event.cgroup_id))
		event.event.frame.outcome = GABION_HELD;
	event.event.frame.length = (__builtin_offsetof(struct cgroup_event, path) +
				    strlen((const char *)event.path) + 1 + 7) & ~7UL;
	output_send(&event, event.event.frame.length, event.event.frame.type != GABION_CGROUP_LEFT);
}

/* Section that an event is counted in. */
static uint32_t section_of(uint16_t type)
{
	switch (type) {
	case GABION_CONNECT:
	case GABION_LISTEN:
	case GABION_SOCKET:
		return SECTION_NETWORK;
	case GABION_DNS:
		return SECTION_DNS;
	case GABION_FILE:
		return SECTION_FILES;
	case GABION_SYSCALL:
		return SECTION_SYSCALLS;
	case GABION_CONTACT:
		return SECTION_CONTACTS;
	default:
		return SECTION_PROCESS;
	}
}

int events_handle(void *argument, void *data, size_t size)
{
	struct events_context *context = argument;
	const struct gabion_event *event = data;

	context->handled++;
	if (size < sizeof(*event))
		return 0;
	switch (event->frame.type) {
	case GABION_CGROUP_NEW:
	case GABION_CGROUP_EMPTY:
	case GABION_CGROUP_GONE:
	case GABION_CGROUP_LEFT:
		handle_cgroup(context, data);
		break;
	case GABION_EXIT: /* counted in no section */
		output_send(data, size, false);
		break;
	default:
		if (!output_send(data, size, false))
			output_count_lost(event->cgroup_id, section_of(event->frame.type));
	}
	return 0;
}

#define CPUS_MAX 256
#define COUNTERS 6

/* The counters of a container's section, over all CPUs. */
static bool read_counts(struct programs *programs, const uint64_t key[2], uint64_t sum[COUNTERS])
{
	static uint64_t each[CPUS_MAX][COUNTERS];
	int cpus = libbpf_num_possible_cpus();

	if (cpus < 1 || cpus > CPUS_MAX || bpf_map_lookup_elem(programs->counts, key, each) < 0)
		return false;
	memset(sum, 0, COUNTERS * sizeof(sum[0]));
	for (int cpu = 0; cpu < cpus; cpu++)
		for (int i = 0; i < COUNTERS; i++)
			sum[i] += each[cpu][i];
	return true;
}

static struct totals {
	uint64_t lost, decide_ns, decide_count, decide_buckets[GABION_BUCKETS];
} read_totals(struct programs *programs)
{
	static struct totals each[CPUS_MAX];
	struct totals sum = { 0 };
	uint32_t zero = 0;
	int cpus = libbpf_num_possible_cpus();

	if (cpus < 1 || cpus > CPUS_MAX || bpf_map_lookup_elem(programs->totals, &zero, each) < 0)
		return sum;
	for (int i = 0; i < cpus; i++) {
		sum.lost += each[i].lost;
		sum.decide_ns += each[i].decide_ns;
		sum.decide_count += each[i].decide_count;
		for (int bucket = 0; bucket < GABION_BUCKETS; bucket++)
			sum.decide_buckets[bucket] += each[i].decide_buckets[bucket];
	}
	return sum;
}

/* The programs have made a row for what they saw; what only the file system watch has seen has one by this. */
static void make_row(void *context, uint64_t cgroup_id, uint32_t section)
{
	static const uint64_t none[CPUS_MAX][COUNTERS];
	struct programs *programs = context;
	uint64_t key[2] = { cgroup_id, section };

	if (libbpf_num_possible_cpus() <= CPUS_MAX)
		bpf_map_update_elem(programs->counts, key, none, BPF_NOEXIST);
}

/* True for a group that is gone or no container's any more: nothing counts there. */
static bool is_over(const struct programs *programs, uint64_t cgroup_id)
{
	struct cgroup_policy policy;

	return bpf_map_lookup_elem(programs->cgroups, &cgroup_id, &policy) < 0 ||
	       !(policy.flags & (GABION_CGROUP_BOUND | GABION_CGROUP_PENDING));
}

/* What this process counted of a container's section, beside the programs. */
static void add_own(struct stats_row *row)
{
	struct output_counts own = output_counts_of(row->cgroup_id, row->section);
	uint64_t told = row->emitted + own.own - own.own_lost;

	row->seen += own.own;
	row->lost += own.lost + own.own_lost;
	row->throttled += own.own_throttled;
	/* What the kernel sent and there was no room for was not told after all. */
	row->emitted = told - (own.lost < told ? own.lost : told);
}

static uint64_t over[STATS_ROWS_MAX][2];

/*
 * Counters are totals since the container was bound; a frame is sent only when one of them moved. The rows of those that are
 * over are told once more, and go.
 */
void events_send_stats(struct programs *programs)
{
	static struct {
		struct stats_frame head;
		struct stats_row rows[STATS_ROWS_MAX];
	} frame;
	static uint64_t last_sum;
	struct totals all = read_totals(programs);
	uint64_t sum = output_lost() + all.lost + all.decide_count;
	uint64_t id[2], next[2];
	uint32_t count = 0, over_count = 0;
	bool has_next;

	output_each_row(make_row, programs);
	has_next = bpf_map_get_next_key(programs->counts, NULL, next) == 0;

	while (has_next && count < STATS_ROWS_MAX) {
		struct stats_row *row = &frame.rows[count];
		uint64_t values[COUNTERS];

		memcpy(id, next, sizeof(id));
		has_next = bpf_map_get_next_key(programs->counts, id, next) == 0;
		if (!read_counts(programs, id, values))
			continue;
		row->cgroup_id = id[0];
		row->section = id[1];
		memcpy(&row->seen, values, sizeof(values));
		add_own(row);
		sum += row->seen + row->lost;
		if (is_over(programs, id[0]))
			memcpy(over[over_count++], id, sizeof(id));
		count++;
	}
	for (uint32_t i = 0; i < over_count; i++) {
		bpf_map_delete_elem(programs->counts, over[i]);
		output_forget(over[i][0], over[i][1]);
	}
	if (sum == last_sum && over_count == 0)
		return;
	last_sum = sum;
	frame.head = (struct stats_frame){
		.frame = { .length = sizeof(frame.head) + count * sizeof(struct stats_row), .type = GABION_STATS,
			   .version = GABION_WIRE_VERSION },
		.row_count = count,
		.lost_in_pipe = output_lost(),
		.lost_in_ring = all.lost,
		.decide_ns = all.decide_ns,
		.decide_count = all.decide_count,
	};
	memcpy(frame.head.decide_buckets, all.decide_buckets, sizeof(all.decide_buckets));
	output_send(&frame, frame.head.frame.length, true);
}
