// SPDX-License-Identifier: Apache-2.0
/* Loads each program group from the object inside this binary. A group that the kernel refuses does not stop others. */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include "sensor.h"

#define OBJECT(name) extern const char name##_object[], name##_object_end[]
OBJECT(process);
OBJECT(cgroup);
OBJECT(network);
OBJECT(tcp);
OBJECT(dns);
OBJECT(syscall);
OBJECT(ring);

#define GROUPS_MAX 8

/* In the order of loading: a map is made by the first object that has it and shared with the others. */
static const struct group {
	const char *name, *begin, *end;
	uint32_t bit;
	bool is_needed;	  /* without it there is no sensor */
	bool is_on_demand; /* attached while a policy needs it, or to each container */
} groups[] = {
	{ "process", process_object, process_object_end, GABION_GROUP_PROCESS, true, false },
	{ "cgroup", cgroup_object, cgroup_object_end, GABION_GROUP_CGROUP, false, false },
	{ "network", network_object, network_object_end, GABION_GROUP_NETWORK, false, true },
	{ "tcp", tcp_object, tcp_object_end, GABION_GROUP_TCP, false, true },
	{ "dns", dns_object, dns_object_end, GABION_GROUP_DNS, false, true },
	{ "syscall", syscall_object, syscall_object_end, GABION_GROUP_SYSCALL, false, true },
	{ "ring", ring_object, ring_object_end, GABION_GROUP_RING, false, true },
};
#define GROUP_COUNT (sizeof(groups) / sizeof(*groups))

static struct bpf_object *objects[GROUPS_MAX];
static uint32_t object_bits[GROUPS_MAX];
static int object_count;

/* Pid 1's namespace is the host's also for a sensor in a container; where it may not be read, our own must do. */
static uint32_t host_namespace(const char *name)
{
	char path[64];
	struct stat status;

	snprintf(path, sizeof(path), "/proc/1/ns/%s", name);
	if (stat(path, &status) == 0)
		return (uint32_t)status.st_ino;
	snprintf(path, sizeof(path), "/proc/self/ns/%s", name);
	return stat(path, &status) == 0 ? (uint32_t)status.st_ino : 0;
}

static bool kernel_has_function(const struct btf *btf, const char *name)
{
	return btf && btf__find_by_name_kind(btf, name, BTF_KIND_FUNC) > 0;
}

static void set_constant(struct bpf_object *object, const char *name, const void *value, size_t size)
{
	/* Read-only data is one map; variables are found through the object's BTF. */
	struct bpf_map *map = bpf_object__find_map_by_name(object, ".rodata");
	const struct btf *btf = bpf_object__btf(object);
	int id = btf ? btf__find_by_name_kind(btf, ".rodata", BTF_KIND_DATASEC) : -1;
	const struct btf_type *section;
	size_t area_size;
	char *area;

	if (!map || id < 0)
		return;
	section = btf__type_by_id(btf, id);
	area = (char *)bpf_map__initial_value(map, &area_size); /* as skeletons do: writable until the load */
	for (int i = 0; i < btf_vlen(section); i++) {
		const struct btf_var_secinfo *info = btf_var_secinfos(section) + i;
		const struct btf_type *variable = btf__type_by_id(btf, info->type);

		if (strcmp(btf__name_by_offset(btf, variable->name_off), name) == 0 && info->offset + size <= area_size)
			memcpy(area + info->offset, value, size);
	}
}

static void note_missing(struct programs *programs, const char *group, const char *what, int error)
{
	size_t used = strlen(programs->missing);

	snprintf(programs->missing + used, sizeof(programs->missing) - used, "%s%s: %s: %s", used ? "; " : "", group,
		 what, strerror(error < 0 ? -error : error));
}

/* Maps are known by their names; each is made once. */
static int share_maps(struct bpf_object *object)
{
	struct bpf_map *map, *shared;

	bpf_object__for_each_map(map, object) {
		if (bpf_map__name(map)[0] == '.' || strchr(bpf_map__name(map), '.'))
			continue;
		for (int i = 0; i < object_count; i++) {
			shared = bpf_object__find_map_by_name(objects[i], bpf_map__name(map));
			if (!shared)
				continue;
			if (bpf_map__reuse_fd(map, bpf_map__fd(shared)) < 0)
				return -errno;
			break;
		}
	}
	return 0;
}

/* Null where it cannot be loaded, with the reason in `errno`. */
static struct bpf_object *load_object(const struct programs *programs, const struct group *group, const struct options *options,
				      bool has_container_kill, bool may_hold_cpu)
{
	struct bpf_object *object = bpf_object__open_mem(group->begin, group->end - group->begin, NULL);
	int error;

	if (!object)
		return NULL;
	set_constant(object, "may_hold_cpu", &may_hold_cpu, 1);
	set_constant(object, "host_mount_ns", &programs->host_mount_ns, 4);
	set_constant(object, "host_pid_ns", &programs->host_pid_ns, 4);
	set_constant(object, "hash_basis", &programs->hash_basis, 8);
	set_constant(object, "has_container_kill", &has_container_kill, 1);
	set_constant(object, "is_measuring", &options->is_measuring, 1);
	if (options->events_per_second) {
		uint64_t burst = options->events_per_second * 2;

		set_constant(object, "events_per_second", &options->events_per_second, 8);
		set_constant(object, "events_burst", &burst, 8);
	}
	error = share_maps(object);
	if (!error)
		error = bpf_object__load(object);
	if (!error)
		return object;
	bpf_object__close(object);
	errno = -error;
	return NULL;
}

/* Kernels from 6.10 on let a program hold its processor, but not all of them while it calls what ours call. */
static struct bpf_object *load_either(const struct programs *programs, const struct group *group, const struct options *options,
				      bool has_container_kill)
{
	libbpf_print_fn_t print = libbpf_set_print(NULL);
	struct bpf_object *object = load_object(programs, group, options, has_container_kill, true);

	libbpf_set_print(print);
	return object ? object : load_object(programs, group, options, has_container_kill, false);
}

static int load_group(struct programs *programs, const struct group *group, const struct options *options,
		      bool has_container_kill)
{
	struct bpf_object *object = load_either(programs, group, options, has_container_kill);
	struct bpf_program *program;
	int error;

	if (!object) {
		error = -errno;
		note_missing(programs, group->name, "load", error);
		return error;
	}
	object_bits[object_count] = group->bit;
	objects[object_count++] = object;
	if (group->is_on_demand)
		return 0;
	bpf_object__for_each_program(program, object) {
		error = attach_always(program);
		if (error) {
			note_missing(programs, group->name, bpf_program__name(program), error);
			return error;
		}
	}
	return 0;
}

struct bpf_object *programs_of(uint32_t group)
{
	for (int i = 0; i < object_count; i++)
		if (object_bits[i] == group)
			return objects[i];
	return NULL;
}

static int find_map(const char *name)
{
	for (int i = 0; i < object_count; i++) {
		int found = bpf_object__find_map_fd_by_name(objects[i], name);

		if (found >= 0)
			return found;
	}
	return -1;
}

/* Memory that the programs read and write too; null where there is none. */
static void *map_shared(const char *name, size_t size)
{
	size_t page = sysconf(_SC_PAGESIZE);
	void *found = mmap(NULL, (size + page - 1) / page * page, PROT_READ | PROT_WRITE, MAP_SHARED, find_map(name), 0);

	return found == MAP_FAILED ? NULL : found;
}

int programs_load(struct programs *programs, const struct options *options)
{
	struct btf *btf = btf__load_vmlinux_btf();
	bool has_kill = kernel_has_function(btf, "bpf_task_from_vpid") &&
			kernel_has_function(btf, "bpf_send_signal_task");
	int error;

	btf__free(btf);
	programs->host_mount_ns = host_namespace("mnt");
	programs->host_pid_ns = host_namespace("pid");
	if (getrandom(&programs->hash_basis, sizeof(programs->hash_basis), 0) != sizeof(programs->hash_basis))
		return -errno;
	for (size_t i = 0; i < GROUP_COUNT; i++) {
		error = load_group(programs, &groups[i], options, has_kill);
		if (error && groups[i].is_needed)
			return error;
		if (!error)
			programs->groups |= groups[i].bit;
	}
	if (has_kill)
		programs->groups |= GABION_GROUP_KILL_CONTAINER;
	programs->events = find_map("events");
	programs->bulk = find_map("bulk");
	programs->cgroups = find_map("cgroups");
	programs->counts = find_map("counts");
	programs->totals = find_map("totals");
	programs->policy = find_map("policy");
	programs->prefixes = find_map("prefixes");
	programs->slots = find_map("slots");
	programs->files = find_map("files");
	programs->contained = find_map("contained");
	programs->group_calls = find_map("group_calls");
	programs->entry_counts = find_map("entry_counts");
	programs->sleeping = map_shared("sleeping", sizeof(*programs->sleeping));
	programs->quiet_calls = map_shared("quiet_calls", GABION_QUIET_PLACES * sizeof(*programs->quiet_calls));
	return programs->sleeping && programs->quiet_calls ? 0 : -errno;
}

void programs_unload(void)
{
	for (int i = object_count - 1; i >= 0; i--)
		bpf_object__close(objects[i]);
	object_count = 0;
}
