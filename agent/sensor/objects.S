/* SPDX-License-Identifier: Apache-2.0 */
/* The compiled kernel programs, so that the sensor is one file. */
	.section .rodata
	.balign 8
	.global process_object, process_object_end, cgroup_object, cgroup_object_end
process_object:
	.incbin "process.bpf.o"
process_object_end:
	.balign 8
cgroup_object:
	.incbin "cgroup.bpf.o"
cgroup_object_end:
	.section .note.GNU-stack,"",@progbits
