// SPDX-License-Identifier: Apache-2.0
/*
 * Where programs are attached: some always, some while a policy needs them, and those that decide about sockets to each
 * container's own control group, so that nothing outside pays for them. All links end with this process.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/membarrier.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "sensor.h"

#define ALWAYS_MAX 32
#define PER_GROUP_MAX 16

static struct bpf_link *always[ALWAYS_MAX];
static int always_count;

/* Groups that are attached to the whole machine on demand. */
static struct on_demand {
	uint32_t bit;
	struct bpf_link *links[4];
} on_demand[] = { { .bit = GABION_GROUP_TCP }, { .bit = GABION_GROUP_SYSCALL }, { .bit = GABION_GROUP_RING } };

struct attached {
	uint64_t cgroup_id;
	uint32_t bits;
	int count;
	struct bpf_link *links[PER_GROUP_MAX];
	struct attached *next;
};
static struct attached *attached;

int attach_always(struct bpf_program *program)
{
	struct bpf_link *link = bpf_program__attach(program);

	if (!link)
		return -errno;
	if (always_count == ALWAYS_MAX)
		return -ENOSPC;
	always[always_count++] = link;
	return 0;
}

static void detach(struct on_demand *group)
{
	for (int i = 0; i < 4; i++) {
		if (group->links[i])
			bpf_link__destroy(group->links[i]);
		group->links[i] = NULL;
	}
}

/* Brings exactly the wanted ones of these groups into place. */
int attach_on_demand(uint32_t wanted)
{
	for (size_t i = 0; i < sizeof(on_demand) / sizeof(*on_demand); i++) {
		struct on_demand *group = &on_demand[i];
		struct bpf_object *object = programs_of(group->bit);
		struct bpf_program *program;
		int count = 0;

		if (!object || !(wanted & group->bit)) {
			detach(group);
			continue;
		}
		if (group->links[0])
			continue;
		bpf_object__for_each_program(program, object) {
			if (count == 4)
				return -ENOSPC;
			group->links[count] = bpf_program__attach(program);
			if (!group->links[count]) {
				int error = -errno;

				detach(group);
				return error;
			}
			count++;
		}
	}
	return 0;
}

static void release(struct attached *links)
{
	for (int i = 0; i < links->count; i++)
		bpf_link__destroy(links->links[i]);
	free(links);
}

void attach_forget(uint64_t cgroup_id)
{
	for (struct attached **at = &attached; *at; at = &(*at)->next) {
		struct attached *found = *at;

		if (found->cgroup_id != cgroup_id)
			continue;
		*at = found->next;
		release(found);
		return;
	}
}

static int attach_object(struct attached *to, uint32_t bit, int directory)
{
	struct bpf_object *object = programs_of(bit);
	struct bpf_program *program;

	if (!object)
		return -EOPNOTSUPP;
	bpf_object__for_each_program(program, object) {
		if (to->count == PER_GROUP_MAX)
			return -ENOSPC;
		to->links[to->count] = bpf_program__attach_cgroup(program, directory);
		if (!to->links[to->count])
			return -errno;
		to->count++;
	}
	to->bits |= bit;
	return 0;
}

/* Attaches what a container's policy needs to its control group; what it needs no more goes. */
int attach_container(uint64_t cgroup_id, int directory, uint32_t flags)
{
	uint32_t wanted = (flags & GABION_CGROUP_NETWORK ? GABION_GROUP_NETWORK : 0) |
			  (flags & GABION_CGROUP_DNS ? GABION_GROUP_DNS : 0);
	struct attached *found = attached, *fresh;
	int error = 0;

	while (found && found->cgroup_id != cgroup_id)
		found = found->next;
	if (found && found->bits == wanted)
		return 0;
	if (!wanted) {
		attach_forget(cgroup_id);
		return 0;
	}
	fresh = calloc(1, sizeof(*fresh));
	if (!fresh)
		return -ENOMEM;
	fresh->cgroup_id = cgroup_id;
	if (wanted & GABION_GROUP_NETWORK)
		error = attach_object(fresh, GABION_GROUP_NETWORK, directory);
	if (!error && wanted & GABION_GROUP_DNS)
		error = attach_object(fresh, GABION_GROUP_DNS, directory);
	if (error) {
		release(fresh);
		return error;
	}
	/* The old ones go when the new ones are there: nothing passes in between. */
	attach_forget(cgroup_id);
	fresh->next = attached;
	attached = fresh;
	return 0;
}

/* When it returns, no program runs any more: what they told and counted is all that there will be. */
void attach_end(void)
{
	while (attached) {
		attach_forget(attached->cgroup_id);
		watchdog_beat();
	}
	for (size_t i = 0; i < sizeof(on_demand) / sizeof(*on_demand); i++)
		detach(&on_demand[i]);
	for (int i = 0; i < always_count; i++)
		bpf_link__destroy(always[i]);
	always_count = 0;
	/* Those that were on their way when they were detached; some kernels cannot wait for them. */
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) < 0)
		usleep(20000);
}
