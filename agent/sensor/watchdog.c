// SPDX-License-Identifier: Apache-2.0
/*
 * A process of its own that outlives the sensor by a moment: it ends one that stands still, whose watch would hold up opens
 * for as long, and lets go on what one that is gone has held. The agent does both too, but may be gone or busy itself.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "sensor.h"

/* So many looks without a sign of life, of its own time: where nothing runs, that does not run either. */
#define LOOK_MS 250
#define LOOKS_MAX 8

static volatile uint64_t *beats; /* shared; 0 until the sensor's loop runs */

void watchdog_beat(void)
{
	if (beats)
		++*beats;
}

/* Everything but the pipe is the sensor's: held open here, the agent would wait for its end. */
static void let_go_of_files(int pipe_end)
{
	int nothing = open("/dev/null", O_RDWR);

	for (int file = 0; file < 3; file++)
		dup2(nothing, file);
	dup2(pipe_end, 3);
	syscall(SYS_close_range, 4, ~0U, 0);
}

static void watch(const struct options *options, int sensor)
{
	struct pollfd end = { .fd = 3, .events = POLLIN };
	uint64_t last = 0;
	int looks = 0;

	/* Readable by its end only: nobody writes. */
	while (poll(&end, 1, LOOK_MS) <= 0) {
		looks = *beats == 0 || *beats != last ? 0 : looks + 1;
		last = *beats;
		if (looks >= LOOKS_MAX)
			syscall(SYS_pidfd_send_signal, sensor, SIGKILL, NULL, 0);
	}
	groups_thaw_all(options);
	_exit(0);
}

/* False where there can be none; then the sensor is not started. */
bool watchdog_start(const struct options *options)
{
	pid_t child, sensor = getpid();
	int ends[2];

	beats = mmap(NULL, sizeof(*beats), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (beats == MAP_FAILED || !groups_share_holds() || pipe2(ends, O_CLOEXEC) < 0)
		return false;
	child = fork();
	if (child < 0)
		return false;
	if (child == 0) {
		prctl(PR_SET_NAME, "gabion-watchdog");
		/* It ends with the sensor, and not before. */
		signal(SIGTERM, SIG_IGN);
		signal(SIGINT, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
		let_go_of_files(ends[0]);
		/* Its number may be another one's once it has ended; by then the pipe's end is there. */
		watch(options, syscall(SYS_pidfd_open, sensor, 0));
	}
	close(ends[0]); /* the other one stays open until the sensor ends */
	return true;
}
