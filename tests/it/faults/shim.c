/* A library to preload: calls on some files fall short, fail or take long.
 *
 * SHIM_ARMED  nothing happens unless this file is there; it grows by a byte for each that did
 * SHIM_CALL   pwrite64, pread64, fdatasync or open64
 * SHIM_PATH   the end of the path of the files
 * SHIM_DO     "short": half of the bytes; "delay": 20 ms; the number of an error; "short," and a
 *             number: the first time short, then that error; or "hold," and a number: not before
 *             the file SHIM_ARMED.hold is gone, then that error (0: none)
 * SHIM_FROM   from which call on, counted from 1
 * SHIM_TO     up to which
 * SHIM_STEP   each of so many between
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_long count;

static long number(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

/* What is to be done with this call on this file; NULL when nothing is. */
static const char *what(const char *call, const char *path) {
    const char *wanted = getenv("SHIM_PATH"), *armed = getenv("SHIM_ARMED");
    const char *wanted_call = getenv("SHIM_CALL");
    if (!wanted || !armed || !wanted_call || strcmp(call, wanted_call) != 0) return NULL;
    size_t len = strlen(path), end = strlen(wanted);
    if (len < end || strcmp(path + len - end, wanted) != 0) return NULL;
    if (access(armed, F_OK) != 0) return NULL;
    long n = atomic_fetch_add(&count, 1) + 1;
    long from = number("SHIM_FROM", 1), to = number("SHIM_TO", 1L << 40);
    if (n < from || n > to || (n - from) % number("SHIM_STEP", 1) != 0) return NULL;
    int mark = open(armed, O_WRONLY | O_APPEND);
    /* It may have gone just now. */
    if (mark < 0) return NULL;
    if (write(mark, ".", 1) != 1) abort();
    close(mark);
    const char *todo = getenv("SHIM_DO");
    if (todo && strncmp(todo, "short,", 6) == 0) return n == from ? "short" : todo + 6;
    return todo;
}

static const char *what_fd(const char *call, int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0) return NULL;
    path[len] = 0;
    return what(call, path);
}

/* The error to give back, or 0 when the call shall be made. */
static int failure(const char *what) {
    if (!what || strcmp(what, "short") == 0) return 0;
    if (strcmp(what, "delay") == 0) {
        usleep(20000);
        return 0;
    }
    if (strncmp(what, "hold,", 5) == 0) {
        char hold[4096];
        snprintf(hold, sizeof hold, "%s.hold", getenv("SHIM_ARMED"));
        while (access(hold, F_OK) == 0) usleep(1000);
        return atoi(what + 5);
    }
    return atoi(what);
}

static size_t shortened(const char *what, size_t len) {
    return what && strcmp(what, "short") == 0 && len > 1 ? len / 2 : len;
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off_t offset) {
    ssize_t (*real)(int, const void *, size_t, off_t) = dlsym(RTLD_NEXT, "pwrite64");
    const char *todo = what_fd("pwrite64", fd);
    int error = failure(todo);
    if (error) return errno = error, -1;
    return real(fd, bytes, shortened(todo, len), offset);
}

ssize_t pread64(int fd, void *bytes, size_t len, off_t offset) {
    ssize_t (*real)(int, void *, size_t, off_t) = dlsym(RTLD_NEXT, "pread64");
    const char *todo = what_fd("pread64", fd);
    int error = failure(todo);
    if (error) return errno = error, -1;
    return real(fd, bytes, shortened(todo, len), offset);
}

int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    int error = failure(what_fd("fdatasync", fd));
    if (error) return errno = error, -1;
    return real(fd);
}

int open64(const char *path, int flags, ...) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, "open64");
    va_list args;
    va_start(args, flags);
    mode_t mode = va_arg(args, mode_t);
    va_end(args);
    int error = failure(what("open64", path));
    if (error) return errno = error, -1;
    return real(path, flags, mode);
}
