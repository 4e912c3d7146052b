// SPDX-License-Identifier: Apache-2.0
/* Loads each program group from the object inside this binary. A group that the kernel refuses does not stop others. */
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include "sensor.h"

extern const char process_object[], process_object_end[], cgroup_object[], cgroup_object_end[];

#define GROUPS_MAX 8
#define LINKS_MAX 32

static struct bpf_object *objects[GROUPS_MAX];
static struct bpf_link *links[LINKS_MAX];
static int object_count, link_count;

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

static int share_maps(struct bpf_object *object)
{
	struct bpf_map *map, *shared;

	if (object_count == 0)
		return 0;
	bpf_object__for_each_map(map, object) {
		shared = bpf_object__find_map_by_name(objects[0], bpf_map__name(map));
		if (shared && bpf_map__name(map)[0] != '.' && bpf_map__reuse_fd(map, bpf_map__fd(shared)) < 0)
			return -errno;
	}
	return 0;
}

static int load_group(struct programs *programs, const char *name, const char *begin, const char *end,
		      const struct options *options, bool has_container_kill)
{
	struct bpf_object *object = bpf_object__open_mem(begin, end - begin, NULL);
	struct bpf_program *program;
	int error;

	if (!object) {
		note_missing(programs, name, "open", errno);
		return -errno;
	}
	set_constant(object, "host_mount_ns", &programs->host_mount_ns, 4);
	set_constant(object, "host_pid_ns", &programs->host_pid_ns, 4);
	set_constant(object, "hash_basis", &programs->hash_basis, 8);
	set_constant(object, "has_container_kill", &has_container_kill, 1);
	set_constant(object, "is_measuring", &options->is_measuring, 1);
	error = share_maps(object);
	if (!error)
		error = bpf_object__load(object);
	if (error) {
		note_missing(programs, name, "load", error);
		bpf_object__close(object);
		return error;
	}
	objects[object_count++] = object;
	bpf_object__for_each_program(program, object) {
		struct bpf_link *link = bpf_program__attach(program);

		if (!link) {
			note_missing(programs, name, bpf_program__name(program), errno);
			return -errno;
		}
		links[link_count++] = link;
	}
	return 0;
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
	error = load_group(programs, "process", process_object, process_object_end, options, has_kill);
	if (error)
		return error;
	programs->groups |= GABION_GROUP_PROCESS | (has_kill ? GABION_GROUP_KILL_CONTAINER : 0);
	if (load_group(programs, "cgroup", cgroup_object, cgroup_object_end, options, has_kill) == 0)
		programs->groups |= GABION_GROUP_CGROUP;
	programs->events = bpf_object__find_map_fd_by_name(objects[0], "events");
	programs->cgroups = bpf_object__find_map_fd_by_name(objects[0], "cgroups");
	programs->counts = bpf_object__find_map_fd_by_name(objects[0], "counts");
	programs->totals = bpf_object__find_map_fd_by_name(objects[0], "totals");
	programs->policy = bpf_object__find_map_fd_by_name(objects[0], "policy");
	programs->slots = bpf_object__find_map_fd_by_name(objects[0], "slots");
	programs->files = bpf_object__find_map_fd_by_name(objects[0], "files");
	return 0;
}

void programs_unload(void)
{
	for (int i = 0; i < link_count; i++)
		bpf_link__destroy(links[i]);
	for (int i = object_count - 1; i >= 0; i--)
		bpf_object__close(objects[i]);
	link_count = object_count = 0;
}
