// SPDX-License-Identifier: Apache-2.0
/*
 * gabion-sensor: holds the capabilities, loads the kernel programs and moves frames. Standard output carries events,
 * standard input orders, standard error words for people. It ends when standard input does; the kernel then detaches
 * everything, so that no policy outlives its agent.
 */
#define _GNU_SOURCE
#include <bpf/libbpf.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>
#include "sensor.h"

/* While events come the rings are read every millisecond; after so many looks for nothing the next event has to wake us. */
#define BUSY_POLL_MS 1
#define LOOKS_FOR_NOTHING 5
/* Holds, the file system watch and each second's counters are looked after all the same. */
#define SLEEP_MS 50
/* How often it is told what entries of policies let through. */
#define HITS_SECONDS 10
/* How long a reader may take at the end. */
#define FLUSH_MS 2000

static char input[2 * GABION_MAX_FRAME];
static size_t input_length;
static volatile sig_atomic_t is_ending;

uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void end_soon(int signal)
{
	(void)signal;
	is_ending = 1;
}

static int print_warning(enum libbpf_print_level level, const char *format, va_list arguments)
{
	return level == LIBBPF_WARN ? vfprintf(stderr, format, arguments) : 0;
}

static void send_hello(const struct programs *programs)
{
	struct hello_frame hello = {
		.frame = { .length = sizeof(hello), .type = GABION_HELLO, .version = GABION_WIRE_VERSION },
		.groups = programs->groups,
		.host_mount_ns = programs->host_mount_ns,
		.host_pid_ns = programs->host_pid_ns,
	};
	struct utsname system;

	uname(&system);
	memcpy(hello.kernel_release, system.release, sizeof(hello.kernel_release) - 1);
	snprintf((char *)hello.missing, sizeof(hello.missing), "%s", programs->missing);
	output_send(&hello, sizeof(hello), true);
}

/* False when the agent is gone or talks nonsense: then going on would be guessing. */
static bool read_control(struct programs *programs, const struct options *options)
{
	ssize_t got = read(STDIN_FILENO, input + input_length, sizeof(input) - input_length);
	size_t at = 0;

	if (got == 0)
		return false;
	if (got < 0)
		return errno == EAGAIN || errno == EINTR;
	input_length += got;
	while (input_length - at >= sizeof(struct gabion_frame)) {
		const struct control_frame *frame = (const void *)(input + at);

		if (frame->frame.length < sizeof(*frame) || frame->frame.length > GABION_MAX_FRAME ||
		    frame->frame.length % 8 || frame->frame.version != GABION_WIRE_VERSION) {
			fprintf(stderr, "control frame refused: length %u, version %u\n", frame->frame.length,
				frame->frame.version);
			return false;
		}
		if (input_length - at < frame->frame.length)
			break;
		control_handle(programs, options, frame);
		at += frame->frame.length;
	}
	memmove(input, input + at, input_length - at);
	input_length -= at;
	return true;
}

static bool wait_on(int poll, int file)
{
	struct epoll_event ready = { .events = EPOLLIN, .data.fd = file };

	return epoll_ctl(poll, EPOLL_CTL_ADD, file, &ready) == 0;
}

/* At the end the pipe is waited for, within a bound. */
static void flush_all(void)
{
	uint64_t until = now_ms() + FLUSH_MS;

	while (output_flush() && output_has_pending() && now_ms() < until) {
		struct pollfd room = { .fd = STDOUT_FILENO, .events = POLLOUT };

		poll(&room, 1, 100);
	}
}

static int run(struct programs *programs, const struct options *options)
{
	struct events_context context = { .programs = programs, .options = options };
	struct ring_buffer *ring = ring_buffer__new(programs->events, events_handle, &context, NULL);
	bool has_bulk = ring && ring_buffer__add(ring, programs->bulk, events_handle, &context) == 0;
	int poll = epoll_create1(EPOLL_CLOEXEC);
	uint64_t next_second = now_ms() + 1000, seconds = 0;
	uint32_t looks = 0;

	if (!has_bulk || poll < 0 || !wait_on(poll, STDIN_FILENO) || !wait_on(poll, ring_buffer__epoll_fd(ring)) ||
	    (programs->groups & GABION_GROUP_FANOTIFY && (!wait_on(poll, refuse_wait_on()) || !wait_on(poll, written_wait_on())))) {
		fprintf(stderr, "cannot wait for events: %s\n", strerror(errno));
		return 1;
	}
	while (!is_ending) {
		struct epoll_event ready[4];
		uint64_t before = context.handled;
		bool may_sleep = looks >= LOOKS_FOR_NOTHING && !output_has_pending();
		int count;

		watchdog_beat();
		*programs->sleeping = may_sleep;
		__sync_synchronize();
		if (may_sleep)
			ring_buffer__consume(ring); /* what came before the word was there woke nobody */
		may_sleep = may_sleep && context.handled == before;
		count = epoll_wait(poll, ready, 4, may_sleep ? SLEEP_MS : BUSY_POLL_MS);
		*programs->sleeping = 0;
		ring_buffer__consume(ring);
		for (int i = 0; i < count; i++)
			if (ready[i].data.fd == STDIN_FILENO && !read_control(programs, options))
				is_ending = 1;
		looks = context.handled != before ? 0 : looks < LOOKS_FOR_NOTHING ? looks + 1 : looks;
		refuse_pump();
		written_pump();
		if (refuse_is_stuck()) {
			fprintf(stderr, "a decision of the file system watch does not end\n");
			is_ending = 1;
		}
		groups_expire_holds(options);
		if (now_ms() >= next_second) {
			next_second += 1000;
			events_send_stats(programs);
			if (++seconds % HITS_SECONDS == 0)
				counters_tell(programs);
		}
		if (!output_flush())
			is_ending = 1;
	}
	groups_thaw_all(options);
	/* What happened until now is told, and how much of it was lost, as long as somebody reads. Nothing comes any more. */
	attach_end();
	ring_buffer__consume(ring);
	refuse_pump();
	written_pump();
	counters_tell(programs);
	events_send_stats(programs);
	flush_all();
	ring_buffer__free(ring);
	return 0;
}

/* Each container takes some ten links. */
static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static bool parse_options(int argc, char **argv, struct options *options)
{
	static const struct option known[] = {
		{ "scope", required_argument, NULL, 's' },  { "mount", required_argument, NULL, 'm' },
		{ "hold-ms", required_argument, NULL, 'h' }, { "hold-all", no_argument, NULL, 'a' },
		{ "measure", no_argument, NULL, 't' },	     { "events-per-second", required_argument, NULL, 'e' },
		{ NULL, 0, NULL, 0 },
	};
	int option;

	while ((option = getopt_long(argc, argv, "", known, NULL)) != -1) {
		switch (option) {
		case 's': options->scope = optarg; break;
		case 'm': options->mount = optarg; break;
		case 'h': options->hold_ms = strtoul(optarg, NULL, 10); break;
		case 'a': options->is_holding_all = true; break;
		case 't': options->is_measuring = true; break;
		case 'e': options->events_per_second = strtoull(optarg, NULL, 10); break;
		default: return false;
		}
	}
	return options->scope[0] == '/' && options->mount[0] == '/';
}

int main(int argc, char **argv)
{
	struct options options = { .scope = "/", .mount = "/sys/fs/cgroup" };
	struct programs programs = { 0 };
	int error;

	if (!parse_options(argc, argv, &options)) {
		fprintf(stderr, "usage: gabion-sensor --scope /PATH --mount /CGROUP2 [--hold-ms N] [--hold-all] [--measure] "
				"[--events-per-second N]\n");
		return 2;
	}
	signal(SIGPIPE, SIG_IGN);
	signal(SIGTERM, end_soon);
	signal(SIGINT, SIG_IGN); /* the agent decides when to end */
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	raise_file_limit();
	libbpf_set_print(print_warning);
	fcntl(STDOUT_FILENO, F_SETFL, fcntl(STDOUT_FILENO, F_GETFL) | O_NONBLOCK);
	fcntl(STDOUT_FILENO, F_SETPIPE_SZ, 1024 * 1024);
	/* Before anything is open that it should not have. */
	if (!watchdog_start(&options)) {
		fprintf(stderr, "cannot start the watchdog: %s\n", strerror(errno));
		return 5;
	}
	error = programs_load(&programs, &options);
	if (error) {
		fprintf(stderr, "cannot load the kernel programs: %s (%s)\n", strerror(-error), programs.missing);
		return 3;
	}
	error = groups_adopt_tree(&options, &programs);
	if (error) {
		fprintf(stderr, "cannot read the control groups at %s%s: %s\n", options.mount, options.scope, strerror(-error));
		return 4;
	}
	if (refuse_start() && written_start())
		programs.groups |= GABION_GROUP_FANOTIFY;
	malloc_trim(0); /* the kernel's type information was read for loading; its memory is not needed any more */
	send_hello(&programs);
	error = run(&programs, &options);
	refuse_end();
	written_end();
	programs_unload();
	return error;
}
