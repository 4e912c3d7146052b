/* SPDX-License-Identifier: Apache-2.0 */
/* Parts of the loader: each section is one source file. */
#ifndef GABION_SENSOR_H
#define GABION_SENSOR_H

#include <linux/types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "gabion_wire.h"
#include "quiet_calls.h"

struct options {
	const char *scope;	/* control group path below the v2 mount; "/" for all */
	const char *mount;	/* where cgroup v2 is mounted */
	uint32_t hold_ms;	/* longest time that a new container is held; 0: never hold */
	bool is_holding_all;	/* hold every new group, not only those that a container runtime makes */
	bool is_measuring;
	uint64_t events_per_second; /* what one container may send; 0 for the default */
};

/* programs.c: loads and attaches the program groups. */
struct programs {
	uint32_t groups;
	int events, bulk, cgroups, counts, totals, policy, prefixes, slots, files, contained, group_calls, entry_counts;
	uint64_t hash_basis;
	uint32_t host_mount_ns, host_pid_ns;
	char missing[256];
	struct quiet_calls *quiet_calls; /* shared with the programs at system calls */
	volatile uint64_t *sleeping; /* the kernel programs' word: 1 where the next event must wake this process */
};
int programs_load(struct programs *programs, const struct options *options);
void programs_unload(void);
struct bpf_object *programs_of(uint32_t group); /* null where it did not load */

/* attach.c: where programs are attached. */
struct bpf_program;
int attach_always(struct bpf_program *program);
int attach_on_demand(uint32_t wanted);
int attach_container(uint64_t cgroup_id, int directory, uint32_t flags);
void attach_forget(uint64_t cgroup_id);
void attach_end(void);

/* slots.c: versions of policies. */
int slots_load(struct programs *programs, const struct control_frame *frame);
int slots_drop(struct programs *programs, uint32_t slot);
uint32_t slots_entry_count(uint32_t slot);

/* counters.c: how often entries let something through. */
uint32_t counters_take(struct programs *programs, uint64_t cgroup_id, uint32_t slot);
void counters_give_back(struct programs *programs, uint64_t cgroup_id, uint32_t kept);
void counters_tell(struct programs *programs);

/* refuse.c: opens and execs that are refused with EPERM, decided in a thread that waits for nothing else. */
bool refuse_start(void);
bool refuse_is_stuck(void);
int refuse_protect(const struct control_frame *frame, const char *group, const char *entries, size_t length);
void refuse_forget(uint64_t cgroup_id);
void refuse_pump(void); /* hands what was refused to the output */
int refuse_wait_on(void); /* becomes readable where there is something for it to hand on */
void refuse_end(void);

/* written.c: files that were written and closed. */
bool written_start(void);
int written_watch(const struct control_frame *frame, const char *entries, size_t length);
void written_forget(uint64_t cgroup_id);
void written_pump(void);
int written_wait_on(void);
void written_end(void);

/* output.c: frames to the agent; never blocks, counts what did not fit. */
bool output_send(const void *frame, uint32_t length, bool is_critical);
bool output_flush(void);
bool output_has_pending(void);
uint64_t output_lost(void);
/* Beside what the kernel programs count of a container's section. */
struct output_counts {
	uint64_t lost; /* of what the programs sent */
	uint64_t own;  /* seen by the file system watch */
	uint64_t own_lost;
	uint64_t own_throttled; /* of the lost ones: more than a container may send */
};
enum output_fate { OUTPUT_TOLD, OUTPUT_LOST, OUTPUT_THROTTLED };
void output_count_lost(uint64_t cgroup_id, uint32_t section); /* sent by a program, without room here */
void output_count_own(uint64_t cgroup_id, uint32_t section, enum output_fate fate); /* seen by the file system watch */
struct output_counts output_counts_of(uint64_t cgroup_id, uint32_t section);
void output_each_row(void (*visit)(void *context, uint64_t cgroup_id, uint32_t section), void *context);
void output_forget(uint64_t cgroup_id, uint32_t section);
void output_acknowledge(uint32_t request, int error, const char *message);

/* watchdog.c: a process that ends this one where it stands still, and lets go on what it held. */
bool watchdog_start(const struct options *options);
void watchdog_beat(void);

/* As maps.bpf.h has it. */
struct cgroup_policy {
	uint32_t slot, flags;
	uint64_t container_id;
	uint32_t device, counters;
};

/* groups.c: the cgroup file system: the watched tree, holding, ending. */
int groups_adopt_tree(const struct options *options, const struct programs *programs);
int groups_bind(const struct options *options, struct programs *programs, const char *path, uint64_t id,
		uint32_t slot, uint32_t flags, uint32_t device);
int groups_write(const struct options *options, const char *path, uint64_t id, const char *file, const char *value);
bool groups_hold(const struct options *options, const char *path, uint64_t id);
int groups_thaw(const struct options *options, const char *path, uint64_t id);
void groups_expire_holds(const struct options *options);
void groups_thaw_all(const struct options *options);
bool groups_share_holds(void); /* with processes that are made from here on */

/* control.c: what the agent asks for. */
void control_handle(struct programs *programs, const struct options *options, const struct control_frame *frame);

/* events.c: what the kernel programs saw. */
int events_handle(void *context, void *data, size_t size);
void events_send_stats(struct programs *programs);
struct events_context {
	struct programs *programs;
	const struct options *options;
	uint64_t handled;
};

uint64_t now_ms(void);
uint64_t hash_text(uint64_t basis, const char *text, size_t length);

#endif
