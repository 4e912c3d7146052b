/* SPDX-License-Identifier: Apache-2.0 */
/* Hashes of paths and names: the whole, the base name and every folder on the way. Each text is read once. */
#ifndef GABION_TEXT_HASH_BPF_H
#define GABION_TEXT_HASH_BPF_H

#define DIRECTORIES_MAX 16

struct text_hashes {
	__u64 full;
	__u64 base;   /* of what follows the last slash */
	__u64 parent; /* of the text up to and with the last slash */
	__u32 directory_count;
	__u32 is_complete;
	__u32 is_plain; /* without `//` and components that begin with a dot, which may lead elsewhere */
	__u32 reserved;
	__u64 directories[DIRECTORIES_MAX]; /* of the text up to and with each slash */
};

const volatile __u64 hash_basis = 0xcbf29ce484222325ULL;

/*
 * A macro body and not a function with a pointer: global functions, which the verifier checks once and not at each
 * call, take only numbers, so each text has one of its own. The count of directories lives in the map and not in a
 * register, so that the verifier forgets its value and does not follow every combination.
 */
#define HASH_TEXT(text, text_max, hashes, stop_at_nul)                                                                 \
	__u64 full = hash_basis, base = hash_basis;                                                                    \
	__u8 before = 0;                                                                                               \
	(hashes)->parent = hash_basis;                                                                                 \
	(hashes)->is_plain = 1;                                                                                        \
	(hashes)->directory_count = 0;                                                                                 \
	(hashes)->is_complete = 0;                                                                                     \
	for (__u32 i = 0; i < (text_max); i++) {                                                                       \
		__u8 byte = (text)[i];                                                                                 \
		if (byte == 0) {                                                                                       \
			(hashes)->is_complete = 1;                                                                     \
			break;                                                                                         \
		}                                                                                                      \
		if (before == '/' && (byte == '/' || byte == '.'))                                                     \
			(hashes)->is_plain = 0;                                                                        \
		before = byte;                                                                                         \
		full = gabion_hash_byte(full, byte);                                                                   \
		base = gabion_hash_byte(base, byte);                                                                   \
		if (byte == '/') {                                                                                     \
			__u32 at = *(volatile __u32 *)&(hashes)->directory_count;                                      \
			base = hash_basis;                                                                             \
			(hashes)->parent = full;                                                                       \
			if (at < DIRECTORIES_MAX) {                                                                    \
				(hashes)->directories[at] = full;                                                      \
				*(volatile __u32 *)&(hashes)->directory_count = at + 1;                                \
			}                                                                                              \
		}                                                                                                      \
	}                                                                                                              \
	(hashes)->full = full;                                                                                         \
	(hashes)->base = base;

#endif
