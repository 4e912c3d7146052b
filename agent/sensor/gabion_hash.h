/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hashing that kernel and loader share: FNV-1a over bytes with a basis drawn at random for each start, so that nobody
 * can prepare two paths that collide.
 */
#ifndef GABION_HASH_H
#define GABION_HASH_H

#define GABION_FNV_PRIME 0x100000001b3ULL

static inline __u64 gabion_hash_byte(__u64 hash, __u8 byte)
{
	return (hash ^ byte) * GABION_FNV_PRIME;
}

/* Joins two hashes; not symmetric. */
static inline __u64 gabion_hash_join(__u64 left, __u64 right)
{
	__u64 mixed = (left ^ (right << 31 | right >> 33)) * 0x9e3779b97f4a7c15ULL;

	return mixed ^ mixed >> 29;
}

#endif
