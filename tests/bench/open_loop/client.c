/* Sends requests at planned times, whether or not earlier ones have been answered, and measures their streams.

       client PLAN RESULTS TIMEOUT MAX_FAILED

   PLAN is a binary file (tests/bench/open_loop/plan.py writes it): a head, the arrivals, and the bytes of the requests.
   RESULTS gets one record for each arrival. Times count from the planned start of the first second, so the latency of a
   request that is sent late includes this delay. A request has failed if no token arrives for TIMEOUT seconds. After
   MAX_FAILED failures, the client stops. At the end, it prints one line of JSON about its own work. */

#include "common.h"

#define MAX_TARGETS 2
#define MAX_HEAD 16384 /* bytes of a reply's headers */
#define CHECK_TIMEOUTS 0.1 /* seconds between two checks */
#define TOKEN "word"
#define DONE "[DONE]"

enum { WHOLE = 1, DEGRADED = 2, FAILED = 4 };

struct head {
    uint32_t arrivals, targets, ports[MAX_TARGETS];
};

struct arrival {
    double at; /* seconds */
    uint64_t offset;
    uint32_t length, target, tokens, padding;
};

struct result {
    double at, started, headers, first, last, ended; /* seconds; 0 if it did not happen */
    uint32_t tokens, target;
    uint16_t status, flags;
    uint32_t padding;
};

enum part { HEAD, SIZE, CHUNK, CHUNK_END, TRAILER, PLAIN };

struct connection {
    bool is_open, is_connected;
    uint32_t target;
    const struct arrival *arrival; /* NULL while idle */
    struct result *result;
    size_t written;
    enum part part;
    char head[MAX_HEAD];
    size_t head_length, left; /* left: bytes of the chunk or body */
    bool must_close, is_done;
    int token_matched, done_matched;
    double heard; /* when the last token came, or the request was sent */
};

static struct connection *connections[MAX_DESCRIPTORS];
static int idle[MAX_TARGETS][MAX_DESCRIPTORS], idle_count[MAX_TARGETS];
static struct histogram gaps[MAX_TARGETS];
static struct head plan;
static struct arrival *arrivals;
static struct result *results;
static char *requests;
static double origin; /* time 0 of the plan, in seconds of the monotonic clock */
static int epoll, open_now, open_most, failed, finished;

static double elapsed(void) { return now_seconds() - origin; }

static void hang_up(int fd) {
    close(fd);
    connections[fd]->is_open = false;
}

static void settle(int fd, uint16_t flags) {
    struct connection *one = connections[fd];
    one->result->ended = elapsed();
    one->result->flags |= flags;
    one->arrival = NULL;
    finished++;
    open_now--;
    if (flags & FAILED) failed++;
}

static void fail(int fd) {
    settle(fd, FAILED);
    hang_up(fd);
}

/* The reply has come to its end. */
static void complete(int fd) {
    struct connection *one = connections[fd];
    bool is_whole = one->result->status == 200 && one->is_done && one->result->tokens == one->arrival->tokens;
    settle(fd, is_whole ? WHOLE : FAILED);
    if (one->must_close)
        hang_up(fd);
    else
        idle[one->target][idle_count[one->target]++] = fd;
}

static void hear_token(struct connection *one) {
    double now = now_seconds();
    if (one->result->tokens++)
        count_time(&gaps[one->target], now - one->heard);
    else
        one->result->first = now - origin;
    one->heard = now;
    one->result->last = now - origin;
}

/* The first character of a mark occurs only once in it. So after a mismatch, only this character can begin a match. */
static void advance(int *matched, const char *mark, char byte) {
    *matched = byte == mark[*matched] ? *matched + 1 : byte == mark[0];
}

/* Count tokens, and look for the end, in a part of the body. */
static void scan(struct connection *one, const char *data, size_t length) {
    for (size_t i = 0; i < length; i++) {
        advance(&one->token_matched, TOKEN, data[i]);
        advance(&one->done_matched, DONE, data[i]);
        if (!TOKEN[one->token_matched]) {
            one->token_matched = 0;
            hear_token(one);
        }
        if (!DONE[one->done_matched]) {
            one->done_matched = 0;
            one->is_done = true;
        }
    }
}

/* Take headers up to and with the empty line. Returns the number of bytes taken, or -1 if they are too long. */
static ssize_t take_head(struct connection *one, const char *data, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (one->head_length + 1 == MAX_HEAD) return -1;
        one->head[one->head_length++] = data[i];
        one->head[one->head_length] = 0;
        if (one->head_length < 4 || memcmp(one->head + one->head_length - 4, "\r\n\r\n", 4)) continue;
        const char *size = header(one->head, "content-length:"), *coding = header(one->head, "transfer-encoding:");
        const char *after = header(one->head, "connection:");
        one->result->headers = elapsed();
        one->result->status = (uint16_t)atoi(one->head + strlen("HTTP/1.1 "));
        if (header(one->head, "x-drpo-reduced:")) one->result->flags |= DEGRADED;
        one->must_close = (after && !strncasecmp(after, "close", 5)) || (!size && !coding);
        one->part = coding ? SIZE : PLAIN;
        one->left = coding ? 0 : size ? strtoul(size, NULL, 10) : SIZE_MAX;
        one->head_length = 0;
        return (ssize_t)i + 1;
    }
    return (ssize_t)length;
}

/* Take a line of the chunked coding. Returns the number of bytes; the line is whole if the head ends with \n. */
static size_t take_line(struct connection *one, const char *data, size_t length) {
    size_t taken = 0;
    while (taken < length && one->head_length + 1 < MAX_HEAD) {
        one->head[one->head_length++] = data[taken];
        if (data[taken++] == '\n') break;
    }
    one->head[one->head_length] = 0;
    return taken;
}

static size_t take_chunk_line(int fd, const char *data, size_t length) {
    struct connection *one = connections[fd];
    size_t taken = take_line(one, data, length);
    if (!one->head_length || one->head[one->head_length - 1] != '\n') return taken;
    bool is_empty = !strcmp(one->head, "\r\n");
    one->head_length = 0;
    if (one->part == SIZE) {
        one->left = strtoul(one->head, NULL, 16);
        one->part = one->left ? CHUNK : TRAILER;
    } else if (one->part == CHUNK_END) {
        one->part = SIZE;
    } else if (is_empty) {
        complete(fd);
    }
    return taken;
}

static size_t take_body(int fd, const char *data, size_t length) {
    struct connection *one = connections[fd];
    size_t taken = length < one->left ? length : one->left;
    scan(one, data, taken);
    one->left -= taken;
    if (!one->left && one->part == CHUNK) one->part = CHUNK_END;
    if (!one->left && one->part == PLAIN) complete(fd);
    return taken;
}

static void take(int fd, const char *data, size_t length) {
    struct connection *one = connections[fd];
    while (length && one->is_open && one->arrival) {
        ssize_t taken;
        if (one->part == HEAD) {
            taken = take_head(one, data, length);
            if (taken >= 0 && one->part == PLAIN && !one->left) complete(fd);
        } else if (one->part == CHUNK || one->part == PLAIN) {
            taken = (ssize_t)take_body(fd, data, length);
        } else {
            taken = (ssize_t)take_chunk_line(fd, data, length);
        }
        if (taken < 0) {
            fail(fd);
            return;
        }
        data += taken;
        length -= (size_t)taken;
    }
}

static void receive(int fd) {
    static char buffer[1 << 18];
    ssize_t length = read(fd, buffer, sizeof buffer);
    struct connection *one = connections[fd];
    if (length < 0 && errno == EAGAIN) return;
    if (length > 0) {
        take(fd, buffer, (size_t)length);
    } else if (one->arrival) {
        fail(fd);
    } else {
        hang_up(fd);
        for (int i = 0; i < idle_count[one->target]; i++)
            if (idle[one->target][i] == fd) idle[one->target][i--] = idle[one->target][--idle_count[one->target]];
    }
}

static void send_rest(int fd) {
    struct connection *one = connections[fd];
    size_t length = one->arrival->length - one->written;
    ssize_t written = write(fd, requests + one->arrival->offset + one->written, length);
    if (written < 0 && errno != EAGAIN && errno != ENOTCONN) {
        fail(fd);
        return;
    }
    if (written > 0) one->written += (size_t)written;
    bool is_sent = one->written == one->arrival->length;
    if (is_sent && one->is_connected) return; /* the usual case: nothing to wait for */
    watch(epoll, EPOLL_CTL_MOD, fd, is_sent ? EPOLLIN : EPOLLIN | EPOLLOUT);
    one->is_connected = is_sent;
}

/* A connection that is idle, or else a new one. Returns -1 if there is none. */
static int connection_to(uint32_t target) {
    if (idle_count[target]) return idle[target][--idle_count[target]];
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || fd >= MAX_DESCRIPTORS) return -1;
    struct sockaddr_in address = loopback((int)plan.ports[target]);
    never_block(fd);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    if (!connections[fd] && !(connections[fd] = malloc(sizeof(struct connection)))) die("memory");
    connections[fd]->is_open = true;
    connections[fd]->is_connected = false;
    connections[fd]->target = target;
    watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT);
    return fd;
}

static void start(uint32_t number) {
    const struct arrival *arrival = &arrivals[number];
    results[number].started = elapsed();
    int fd = connection_to(arrival->target);
    if (fd < 0) {
        results[number].flags |= FAILED;
        failed++;
        finished++;
        return;
    }
    struct connection *one = connections[fd];
    one->arrival = arrival;
    one->result = &results[number];
    one->written = one->head_length = one->left = 0;
    one->part = HEAD;
    one->must_close = one->is_done = false;
    one->token_matched = one->done_matched = 0;
    one->heard = now_seconds();
    if (++open_now > open_most) open_most = open_now;
    if (one->is_connected) send_rest(fd); /* the request on a new connection is sent once it is connected */
}

static void fail_silent_ones(double timeout) {
    double now = now_seconds();
    for (int fd = 0; fd < MAX_DESCRIPTORS; fd++) {
        struct connection *one = connections[fd];
        if (one && one->is_open && one->arrival && now - one->heard > timeout) fail(fd);
    }
}

static void run(double timeout, int max_failed) {
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    double next_check = origin + CHECK_TIMEOUTS, timer_at = 0;
    watch(epoll, EPOLL_CTL_ADD, timer, EPOLLIN | EPOLLET);
    for (uint32_t next = 0; finished < (int)plan.arrivals && failed < max_failed;) {
        double wake = next_check;
        if (next < plan.arrivals && origin + arrivals[next].at < wake) wake = origin + arrivals[next].at;
        if (wake != timer_at) set_timer(timer, timer_at = wake);
        struct epoll_event events[MAX_EVENTS];
        int ready = epoll_wait(epoll, events, MAX_EVENTS, -1);
        for (; next < plan.arrivals && arrivals[next].at <= elapsed(); next++) start(next);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == timer || !connections[fd]->is_open) continue;
            bool must_send = connections[fd]->arrival && connections[fd]->written < connections[fd]->arrival->length;
            if (events[i].events & EPOLLOUT && must_send) send_rest(fd);
            if (connections[fd]->is_open && events[i].events & ~(uint32_t)EPOLLOUT) receive(fd);
        }
        if (now_seconds() < next_check) continue;
        fail_silent_ones(timeout);
        next_check = now_seconds() + CHECK_TIMEOUTS;
    }
}

static void read_plan(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fread(&plan, sizeof plan, 1, file) != 1 || plan.targets > MAX_TARGETS) die(path);
    arrivals = calloc(plan.arrivals, sizeof *arrivals);
    results = calloc(plan.arrivals, sizeof *results);
    if (!arrivals || !results || fread(arrivals, sizeof *arrivals, plan.arrivals, file) != plan.arrivals) die(path);
    struct bytes all = {0};
    char part[1 << 16];
    for (size_t length; (length = fread(part, 1, sizeof part, file));) append(&all, part, length);
    requests = all.data;
    fclose(file);
    for (uint32_t i = 0; i < plan.arrivals; i++) {
        results[i].at = arrivals[i].at;
        results[i].target = arrivals[i].target;
    }
}

int main(int count, char **arguments) {
    if (count != 5) {
        fprintf(stderr, "usage: client PLAN RESULTS TIMEOUT MAX_FAILED\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    read_plan(arguments[1]);
    epoll = epoll_create1(0);
    origin = now_seconds();
    run(atof(arguments[3]), atoi(arguments[4]));
    FILE *file = fopen(arguments[2], "wb");
    bool is_written = file && fwrite(results, sizeof *results, plan.arrivals, file) == plan.arrivals && !fclose(file);
    if (!is_written) die(arguments[2]);
    printf("{\"seconds\":%.3f,\"cpu\":%.3f,\"open_most\":%d,\"gap_p99_ms\":[%.1f,%.1f]}\n", elapsed(), cpu_seconds(),
           open_most, quantile(&gaps[0], 0.99), quantile(&gaps[1], 0.99));
}
