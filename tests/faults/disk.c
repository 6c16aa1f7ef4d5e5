/* Stands between a process and its disk, by LD_PRELOAD: notes what is written and synchronised, or lets it fail.

   DISK_LOG    a file to which every write, synchronisation and removal is appended, in order, with its data
   DISK_AT     the operation (of writes and synchronisations, from 1) to interfere with
   DISK_FOR    how many operations from there on; 1 unless said
   DISK_HOW    "before", "within" or "after": the process is killed there; or a number: they fail with that errno

   Only files of a store, and the ledgers of the test, are looked at. What is noted: an octet for the kind
   (w: at an offset, a: at the end, s: synchronised, t: cut to a length, r: removed), then the length of the
   name (of a folder it is a point), the offset and the length of the data as three little-endian 64-bit numbers,
   the name, and the data. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static int noted = -1;
static long operations;

static const char *known(const char *path)
{
    const char *name = strrchr(path, '/');
    name = name ? name + 1 : path;
    if (!strncmp(name, "messages.sqlite", 15) && !strstr(name, "-shm") && !strstr(name, "-host"))
        return name;
    return !strcmp(name, "accepted") || !strcmp(name, "reached") ? name : NULL;
}

static const char *name_of(int fd, char *path, size_t size)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, size - 1);
    if (length < 0)
        return NULL;
    path[length] = 0;
    return known(path);
}

static void note(char kind, const char *name, uint64_t offset, const void *data, uint64_t length)
{
    static ssize_t (*next)(int, const struct iovec *, int);
    const char *log = getenv("DISK_LOG");
    if (!log)
        return;
    if (noted < 0)
        noted = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (!next)
        next = dlsym(RTLD_NEXT, "writev");
    uint64_t numbers[3] = {strlen(name), offset, length};
    struct iovec parts[4] = {
        {&kind, 1}, {numbers, sizeof numbers}, {(void *)name, strlen(name)}, {(void *)data, length}};
    if (next(noted, parts, 4) < 0)
        abort();
}

/* Whether it is the turn of this operation to fail: then errno is set. A kill does not return. */
static int fails(const char *when)
{
    const char *at = getenv("DISK_AT"), *how = getenv("DISK_HOW"), *times = getenv("DISK_FOR");
    if (!at || !how)
        return 0;
    long first = atol(at), last = first + (times ? atol(times) : 1);
    if (operations < first || operations >= last)
        return 0;
    if (!strcmp(how, when))
        kill(getpid(), SIGKILL);
    if (how[0] >= '0' && how[0] <= '9' && !strcmp(when, "before")) {
        errno = atoi(how);
        return 1;
    }
    return 0;
}

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset)
{
    static ssize_t (*next)(int, const void *, size_t, off64_t);
    char path[4096];
    if (!next)
        next = dlsym(RTLD_NEXT, "pwrite64");
    const char *name = name_of(fd, path, sizeof path);
    if (!name)
        return next(fd, data, length, offset);
    pthread_mutex_lock(&turn);
    operations++;
    ssize_t written = -1;
    if (!fails("before")) {
        const char *how = getenv("DISK_HOW");
        if (how && !strcmp(how, "within")) {
            next(fd, data, length / 2, offset);
            fails("within");
        }
        written = next(fd, data, length, offset);
        note('w', name, (uint64_t)offset, data, length);
        fails("after");
    }
    pthread_mutex_unlock(&turn);
    return written;
}

ssize_t pwrite(int fd, const void *data, size_t length, off_t offset)
{
    return pwrite64(fd, data, length, offset);
}

static int synchronise(int fd, const char *call)
{
    int (*next)(int) = (int (*)(int))dlsym(RTLD_NEXT, call);
    char path[4096];
    const char *name = name_of(fd, path, sizeof path);
    struct stat what;
    if (!name && !fstat(fd, &what) && S_ISDIR(what.st_mode))
        name = ".";
    if (!name)
        return next(fd);
    pthread_mutex_lock(&turn);
    operations++;
    int result = -1;
    if (!fails("before")) {
        result = next(fd);
        note('s', name, 0, "", 0);
        fails("after");
    }
    pthread_mutex_unlock(&turn);
    return result;
}

int fsync(int fd) { return synchronise(fd, "fsync"); }

int fdatasync(int fd) { return synchronise(fd, "fdatasync"); }

ssize_t write(int fd, const void *data, size_t length)
{
    static ssize_t (*next)(int, const void *, size_t);
    char path[4096];
    if (!next)
        next = dlsym(RTLD_NEXT, "write");
    const char *name = name_of(fd, path, sizeof path);
    ssize_t written = next(fd, data, length);
    if (name && written > 0) {
        pthread_mutex_lock(&turn);
        note('a', name, 0, data, (uint64_t)written);
        pthread_mutex_unlock(&turn);
    }
    return written;
}

int ftruncate64(int fd, off64_t length)
{
    static int (*next)(int, off64_t);
    char path[4096];
    if (!next)
        next = dlsym(RTLD_NEXT, "ftruncate64");
    const char *name = name_of(fd, path, sizeof path);
    int result = next(fd, length);
    if (name && !result) {
        pthread_mutex_lock(&turn);
        note('t', name, (uint64_t)length, "", 0);
        pthread_mutex_unlock(&turn);
    }
    return result;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int unlink(const char *path)
{
    static int (*next)(const char *);
    if (!next)
        next = dlsym(RTLD_NEXT, "unlink");
    const char *name = known(path);
    int result = next(path);
    if (name && !result) {
        pthread_mutex_lock(&turn);
        note('r', name, 0, "", 0);
        pthread_mutex_unlock(&turn);
    }
    return result;
}
