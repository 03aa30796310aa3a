/*
 * Character back end over file descriptors. Written to by devices on any
 * thread, drained and fed on the loop's thread. Invariant: nothing here blocks
 * but chardev_fd_drain, and no memory is allocated after creation.
 *
 * The buffer is a ring; head and tail count bytes for ever and are reduced
 * when they index:
 *
 *      out  |....tttttttttttttttt......|
 *               ^ tail          ^ head
 */
#include "chardev/chardev_fd.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define INPUT_CHUNK  4096
/* A serial port writes byte by byte; waiting this long for more saves a wake-up for each. */
#define GATHER_NS    500000
#define GATHER_BYTES 4096

struct port {
	int fd;        /* our own; -1: none */
	int old_flags; /* to be put back on the open file we share; -1: untouched */
	bool plain;    /* a kind of file that epoll refuses: always ready */
	struct loop_fd *watch;
};

struct chardev_fd {
	struct chardev chr;
	struct loop *loop;
	struct port in, out;
	struct loop_task input_task, output_task;
	int gather_fd; /* timer: the oldest byte has waited long enough */
	struct loop_fd *gather_watch;

	/* Loop's thread only. */
	bool input_ended;

	pthread_mutex_t lock; /* guards what follows */
	uint64_t head, tail;
	bool refused; /* somebody waits for `writable` */
	bool broken;  /* nobody will ever read */
	uint8_t buffer[CHARDEV_FD_BUFFER];
};

/* A terminal can be opened a second time; opening the master of a pty would make a new pty. */
static bool can_reopen(int fd, const struct stat *st)
{
	unsigned number;

	return S_ISFIFO(st->st_mode) || (isatty(fd) && ioctl(fd, TIOCGPTN, &number) < 0);
}

/*
 * A descriptor that does not block. O_NONBLOCK belongs to the open file, which
 * we may share with the shell that started us: so open it anew where that is
 * possible, and else set the flag and put it back at the end.
 */
static int port_open(struct port *port, int fd, int mode)
{
	char path[64];
	struct stat st;
	int flags;

	if (fd < 0)
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (can_reopen(fd, &st)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
		port->fd = open(path, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (port->fd >= 0)
			return 0;
	}
	port->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (port->fd < 0)
		return -errno;
	/* A regular file has an offset to share and does not block for long. */
	if (S_ISREG(st.st_mode))
		return 0;
	flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return -errno;
	/* Set already, perhaps by our own other direction: nothing to put back. */
	if (flags & O_NONBLOCK)
		return 0;
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	port->old_flags = flags;
	return 0;
}

static void port_close(struct port *port)
{
	loop_remove_fd(port->watch);
	if (port->fd < 0)
		return;
	if (port->old_flags >= 0)
		fcntl(port->fd, F_SETFL, port->old_flags);
	close(port->fd);
}

/*
 * One-shot: a hang-up is reported whether or not we ask, and must not spin while
 * the front end is full.
 */
static int port_watch(struct chardev_fd *c, struct port *port,
		      void (*ready)(void *ctx, uint32_t events))
{
	if (port->fd < 0)
		return 0;
	port->watch = loop_add_fd(c->loop, port->fd, EPOLLONESHOT, ready, c);
	if (port->watch)
		return 0;
	port->plain = errno == EPERM;
	return port->plain ? 0 : -errno;
}

static void end_input(struct chardev_fd *c)
{
	c->input_ended = true;
	if (c->chr.frontend.closed)
		c->chr.frontend.closed(c->chr.frontend.ctx);
}

/* Loop's thread: one chunk of input if the front end has room, then wait for more. */
static void feed(void *ctx)
{
	struct chardev_fd *c = ctx;
	const struct chardev_frontend *front = &c->chr.frontend;
	uint8_t bytes[INPUT_CHUNK];
	size_t room;
	ssize_t count;

	if (c->input_ended || c->in.fd < 0 || !front->room || !front->receive)
		return;
	room = front->room(front->ctx);
	if (!room)
		return; /* chardev_kick_input brings us back */
	count = read(c->in.fd, bytes, room < sizeof(bytes) ? room : sizeof(bytes));
	if (count == 0 || (count < 0 && errno != EAGAIN && errno != EINTR)) {
		end_input(c);
		return;
	}
	if (count > 0)
		front->receive(front->ctx, bytes, (size_t)count);
	if (c->in.plain)
		loop_post(c->loop, &c->input_task);
	else
		loop_mod_fd(c->in.watch, EPOLLIN | EPOLLONESHOT);
}

static void input_ready(void *ctx, uint32_t events)
{
	feed(ctx);
}

static void kick_input(struct chardev *chr)
{
	struct chardev_fd *c = (struct chardev_fd *)chr;

	loop_post(c->loop, &c->input_task);
}

/*
 * Lock held. Hands to the descriptor what it takes. True: bytes are left and it
 * takes no more now.
 */
static bool push_output(struct chardev_fd *c)
{
	while (c->tail != c->head) {
		size_t at = c->tail % CHARDEV_FD_BUFFER, count = c->head - c->tail;
		size_t to_end = CHARDEV_FD_BUFFER - at;
		struct iovec iov[2] = {
			{ c->buffer + at, count < to_end ? count : to_end },
			{ c->buffer, count < to_end ? 0 : count - to_end },
		};
		ssize_t done = writev(c->out.fd, iov, 2);

		if (done < 0 && errno == EINTR)
			continue;
		if (done < 0 && errno == EAGAIN)
			return true;
		if (done < 0) {
			c->broken = true;
			c->tail = c->head;
		} else {
			c->tail += (uint64_t)done;
		}
	}
	return false;
}

/* Loop's thread. */
static void flush(void *ctx)
{
	struct chardev_fd *c = ctx;
	bool more, writable;

	pthread_mutex_lock(&c->lock);
	more = push_output(c);
	writable = c->refused && c->head - c->tail <= CHARDEV_FD_BUFFER / 2;
	if (writable)
		c->refused = false;
	pthread_mutex_unlock(&c->lock);
	if (more && c->out.watch)
		loop_mod_fd(c->out.watch, EPOLLOUT | EPOLLONESHOT);
	else if (more)
		loop_post(c->loop, &c->output_task);
	if (writable && c->chr.frontend.writable)
		c->chr.frontend.writable(c->chr.frontend.ctx);
}

static void output_ready(void *ctx, uint32_t events)
{
	flush(ctx);
}

static void gathered(void *ctx, uint32_t events)
{
	struct chardev_fd *c = ctx;
	uint64_t count;

	if (read(c->gather_fd, &count, sizeof(count)) == sizeof(count))
		flush(c);
}

static void arm_gather(struct chardev_fd *c)
{
	const struct itimerspec soon = { .it_value.tv_nsec = GATHER_NS };

	if (timerfd_settime(c->gather_fd, 0, &soon, NULL) < 0)
		loop_post(c->loop, &c->output_task);
}

static size_t fd_write(struct chardev *chr, const uint8_t *bytes, size_t count)
{
	struct chardev_fd *c = (struct chardev_fd *)chr;
	size_t room, at, to_end, before;

	pthread_mutex_lock(&c->lock);
	if (c->out.fd < 0 || c->broken) {
		pthread_mutex_unlock(&c->lock);
		return count;
	}
	before = c->head - c->tail;
	room = CHARDEV_FD_BUFFER - before;
	if (count > room) {
		count = room;
		c->refused = true;
	}
	at = c->head % CHARDEV_FD_BUFFER;
	to_end = CHARDEV_FD_BUFFER - at;
	memcpy(c->buffer + at, bytes, count < to_end ? count : to_end);
	if (count > to_end)
		memcpy(c->buffer, bytes + to_end, count - to_end);
	c->head += count;
	pthread_mutex_unlock(&c->lock);

	/*
	 * Whoever makes it not empty arms the timer, whoever makes it a page cuts
	 * the wait short.
	 */
	if (before < GATHER_BYTES && before + count >= GATHER_BYTES)
		loop_post(c->loop, &c->output_task);
	else if (!before && count)
		arm_gather(c);
	return count;
}

bool chardev_fd_drain(struct chardev *chr, int stall_ms)
{
	struct chardev_fd *c = (struct chardev_fd *)chr;
	const struct timespec at_once = { 0 };
	sigset_t pipe_only, before;
	bool more, stalled = false;

	/* Here, unlike on the loop's thread, a reader that has gone would cost us the process. */
	sigemptyset(&pipe_only);
	sigaddset(&pipe_only, SIGPIPE);
	pthread_sigmask(SIG_BLOCK, &pipe_only, &before);
	do {
		struct pollfd poll_fd = { .fd = c->out.fd, .events = POLLOUT };

		pthread_mutex_lock(&c->lock);
		more = push_output(c);
		pthread_mutex_unlock(&c->lock);
		if (more)
			stalled = poll(&poll_fd, 1, stall_ms) == 0;
	} while (more && !stalled);
	if (!sigismember(&before, SIGPIPE))
		sigtimedwait(&pipe_only, NULL, &at_once);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return !more;
}

/* On the loop's thread, so that no callback is under way and none follows. */
static void close_all(void *ctx)
{
	struct chardev_fd *c = ctx;

	loop_remove_fd(c->gather_watch);
	port_close(&c->in);
	port_close(&c->out);
	loop_cancel(c->loop, &c->input_task);
	loop_cancel(c->loop, &c->output_task);
}

static void fd_free(struct chardev *chr)
{
	struct chardev_fd *c = (struct chardev_fd *)chr;

	loop_call(c->loop, close_all, c);
	if (c->gather_fd >= 0)
		close(c->gather_fd);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

static const struct chardev_ops fd_ops = {
	.write = fd_write,
	.kick_input = kick_input,
	.free = fd_free,
};

static int fd_open(struct chardev_fd *c, int in_fd, int out_fd)
{
	int error = port_open(&c->in, in_fd, O_RDONLY);

	if (!error)
		error = port_open(&c->out, out_fd, O_WRONLY);
	if (error)
		return error;
	c->gather_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (c->gather_fd < 0)
		return -errno;
	c->gather_watch = loop_add_fd(c->loop, c->gather_fd, EPOLLIN, gathered, c);
	if (!c->gather_watch)
		return -errno;
	error = port_watch(c, &c->in, input_ready);
	return error ? error : port_watch(c, &c->out, output_ready);
}

struct chardev *chardev_fd_new(struct loop *loop, int in_fd, int out_fd)
{
	struct chardev_fd *c = calloc(1, sizeof(*c));
	int error;

	if (!c)
		return NULL;
	c->chr.ops = &fd_ops;
	c->loop = loop;
	c->gather_fd = -1;
	c->in = c->out = (struct port){ .fd = -1, .old_flags = -1 };
	pthread_mutex_init(&c->lock, NULL);
	loop_task_init(&c->input_task, feed, c);
	loop_task_init(&c->output_task, flush, c);
	error = fd_open(c, in_fd, out_fd);
	if (!error)
		return &c->chr;
	fd_free(&c->chr);
	errno = -error;
	return NULL;
}
