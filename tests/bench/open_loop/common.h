/* Code that the backend and the client share: a clock, buffers, a histogram, and sockets that never block. */

#ifndef OPEN_LOOP_COMMON_H
#define OPEN_LOOP_COMMON_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MAX_DESCRIPTORS 65536
#define MAX_EVENTS 512
#define BUCKETS 20000 /* of a histogram, 0.1 ms each */

struct bytes {
    char *data;
    size_t length, capacity;
};

struct histogram {
    uint64_t counts[BUCKETS], total;
    double largest; /* seconds */
};

static inline void die(const char *what) {
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
    exit(1);
}

/* Seconds of the monotonic clock. */
static inline double now_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static inline void append(struct bytes *to, const char *data, size_t length) {
    if (to->length + length > to->capacity) {
        to->capacity = 2 * (to->length + length);
        if (!(to->data = realloc(to->data, to->capacity))) die("memory");
    }
    memcpy(to->data + to->length, data, length);
    to->length += length;
}

static inline void drop_first(struct bytes *from, size_t length) {
    from->length -= length;
    memmove(from->data, from->data + length, from->length);
}

static inline void release(struct bytes *of) {
    free(of->data);
    *of = (struct bytes){0};
}

static inline void count_time(struct histogram *in, double seconds) {
    double bucket = seconds < 0 ? 0 : seconds * 1e4;
    in->counts[bucket >= BUCKETS ? BUCKETS - 1 : (int)bucket]++;
    in->total++;
    if (seconds > in->largest) in->largest = seconds;
}

/* The upper end of the bucket in which the quantile lies, in milliseconds. */
static inline double quantile(const struct histogram *of, double share) {
    uint64_t seen = 0, needed = (uint64_t)ceil(share * (double)of->total);
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        if ((seen += of->counts[bucket]) >= needed && seen) return (bucket + 1) / 10.0;
    return 0;
}

static inline void never_block(int fd) {
    int one = 1;
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0) die("fcntl");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static inline struct sockaddr_in loopback(int port) {
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static inline void watch(int epoll, int operation, int fd, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, operation, fd, &event) < 0) die("epoll_ctl");
}

/* Let the timer go off at a time of the monotonic clock; a time that has passed is now. */
static inline void set_timer(int timer, double at) {
    if (at <= 0) at = 1e-9;
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)at, .tv_nsec = (long)((at - floor(at)) * 1e9)}};
    if (timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL) < 0) die("timerfd_settime");
}

static inline double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}

/* The value of a header, or NULL. `head` ends with a zero byte; the name has a colon at its end. */
static inline const char *header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line; line = strstr(line + 2, "\r\n"))
        if (!strncasecmp(line + 2, name, length)) return line + 2 + length + strspn(line + 2 + length, " ");
    return NULL;
}

#endif
