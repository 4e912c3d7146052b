/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The real path of a file as the container sees it: from the dentry up to the root of its mount, over the mount point
 * to the mount above, until the top. Symbolic links are long resolved and chroot does not matter.
 */
#ifndef GABION_PATH_WALK_BPF_H
#define GABION_PATH_WALK_BPF_H

/* Written backwards from the end of the first half; the rest stays zero, so that a copy is padded with zeros. */
struct path_buffer {
	__u8 bytes[2 * GABION_PATH_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct path_buffer);
} path_buffers SEC(".maps");

#define PATH_DEPTH_MAX 48
#define NAME_CHUNK 255

struct walked_path {
	__u32 offset;
	__u32 length;
	bool is_truncated;
};

/*
 * Loads are direct, as the tracepoint's typed pointers allow: each is checked by the kernel and ten times cheaper than
 * a helper call. Only where a pointer was calculated its type has to be given again (since 6.2).
 */
extern void *bpf_rdonly_cast(const void *object, __u32 type) __ksym;

static __always_inline struct mount *mount_of(struct vfsmount *mnt)
{
	return bpf_rdonly_cast((char *)mnt - bpf_core_field_offset(struct mount, mnt),
			       bpf_core_type_id_kernel(struct mount));
}

/* The bound on the rounds is the verifier's; a deeper path is cut at its beginning and marked. */
static __always_inline struct walked_path walk_path(struct path_buffer *buffer, struct dentry *dentry,
						    struct vfsmount *vfsmount)
{
	struct walked_path result = { .is_truncated = true };
	struct mount *mount = mount_of(vfsmount);
	__u32 offset = GABION_PATH_MAX;

	for (int i = 0; i < PATH_DEPTH_MAX; i++) {
		struct dentry *parent = dentry->d_parent;
		struct dentry *root = mount->mnt.mnt_root;
		__u32 length;

		if (dentry == root) {
			struct mount *above = mount->mnt_parent;

			if (above == mount) {
				result.is_truncated = false;
				break;
			}
			dentry = mount->mnt_mountpoint;
			mount = above;
			continue;
		}
		length = dentry->d_name.len;
		/* What has no name, as a pipe, has no place either: the masks below would make much of nothing. */
		if (length == 0 || length > NAME_CHUNK || length + 1 > offset)
			break;
		offset -= length;
		/* The masks tell the verifier what the comparison above has made sure of. */
		offset &= GABION_PATH_MAX - 1;
		length &= 255;
		bpf_probe_read_kernel(&buffer->bytes[offset], length, dentry->d_name.name);
		if (dentry == parent) { /* has no place in a tree: memfd and the like */
			result.is_truncated = false;
			break;
		}
		if (offset == 0)
			break;
		offset -= 1;
		offset &= GABION_PATH_MAX - 1;
		buffer->bytes[offset] = '/';
		dentry = parent;
	}
	if (offset == GABION_PATH_MAX && !result.is_truncated) {
		offset -= 1;
		buffer->bytes[offset] = '/';
	}
	result.offset = offset;
	result.length = GABION_PATH_MAX - offset;
	return result;
}

#endif
