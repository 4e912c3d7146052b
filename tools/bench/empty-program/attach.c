// SPDX-License-Identifier: Apache-2.0
/* Attaches the one program of an object file, says so, and keeps it until standard input ends. */
#include <bpf/libbpf.h>
#include <stdio.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct bpf_object *object = argc == 2 ? bpf_object__open(argv[1]) : NULL;
	struct bpf_link *link;
	char byte;

	if (!object || bpf_object__load(object) < 0)
		return 1;
	link = bpf_program__attach(bpf_object__next_program(object, NULL));
	if (!link)
		return 1;
	puts("attached");
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	bpf_link__destroy(link);
	return 0;
}
