/* SPDX-License-Identifier: Apache-2.0 */
/* The compiled kernel programs, so that the sensor is one file. */
	.macro object name
	.balign 8
	.global \name\()_object, \name\()_object_end
\name\()_object:
	.incbin "\name\().bpf.o"
\name\()_object_end:
	.endm

	.section .rodata
	object process
	object cgroup
	object network
	object tcp
	object dns
	object syscall
	object ring
	.section .note.GNU-stack,"",@progbits
