/* A model server with scripted streams: one thread, one core, no model.

       backend PORT TOKENS_PER_SECOND

   A request for a stream gets "max_tokens" tokens. The headers of the reply are sent at once. Token k (from 1) is due
   k / TOKENS_PER_SECOND seconds after the request arrived, so delays never add up. GET /stats says how late tokens
   were written since the last GET /stats. */

#include "common.h"

#define MODEL "bench-model"
#define MAX_REQUEST (32u << 20) /* bytes */
#define MODELS \
    "{\"object\":\"list\",\"data\":[{\"id\":\"" MODEL "\",\"object\":\"model\",\"max_model_len\":131072}]}"
#define HEAD "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
#define FRAME                                                                                                  \
    "data: {\"id\":\"cmpl-1\",\"object\":\"%s\",\"created\":1700000000,\"model\":\"" MODEL "\",\"choices\":[%s]%s}\n\n"
#define CHAT "{\"index\":0,\"delta\":{%s\"content\":\"%s\"},\"logprobs\":null,\"finish_reason\":%s}"
#define TEXT "{\"index\":0,\"text\":\"%s\",\"logprobs\":null,\"finish_reason\":%s,\"stop_reason\":null}"
#define USAGE ",\"usage\":{\"prompt_tokens\":500,\"total_tokens\":%d,\"completion_tokens\":%d}"

struct connection {
    bool is_open, is_chat, wants_usage, waits_for_room;
    struct bytes in, out;
    int sent, tokens; /* of the stream; no stream while tokens is 0 */
    double started, due;
    struct connection *earlier, *later; /* in the queue of streams, which is in the order of `due` */
};

static struct connection connections[MAX_DESCRIPTORS];
static struct connection *first, *last;
static struct histogram late;
static double interval; /* seconds between two tokens */
static int epoll;
static uint64_t streams;

static int descriptor(const struct connection *of) { return (int)(of - connections); }

static void leave_queue(struct connection *one) {
    *(one->earlier ? &one->earlier->later : &first) = one->later;
    *(one->later ? &one->later->earlier : &last) = one->earlier;
    one->earlier = one->later = NULL;
}

/* Streams have the same interval, so a stream belongs at the end of the queue, or near it. */
static void enter_queue(struct connection *one) {
    struct connection *before = last;
    while (before && before->due > one->due) before = before->earlier;
    one->earlier = before;
    one->later = before ? before->later : first;
    *(one->earlier ? &one->earlier->later : &first) = one;
    *(one->later ? &one->later->earlier : &last) = one;
}

static void end(struct connection *one) {
    if (one->tokens) leave_queue(one);
    release(&one->in);
    release(&one->out);
    close(descriptor(one));
    *one = (struct connection){0};
}

/* Write, and keep what the socket does not take. Returns whether the connection is still open. */
static bool put(struct connection *one, const char *data, size_t length) {
    ssize_t written = one->out.length ? 0 : write(descriptor(one), data, length);
    if (written < 0 && errno != EAGAIN) {
        end(one);
        return false;
    }
    if (written < 0) written = 0;
    if ((size_t)written < length) append(&one->out, data + written, length - (size_t)written);
    if (one->out.length && !one->waits_for_room) watch(epoll, EPOLL_CTL_MOD, descriptor(one), EPOLLIN | EPOLLOUT);
    one->waits_for_room = one->out.length;
    return true;
}

static void put_rest(struct connection *one) {
    ssize_t written = write(descriptor(one), one->out.data, one->out.length);
    if (written < 0 && errno != EAGAIN) {
        end(one);
        return;
    }
    if (written > 0) drop_first(&one->out, (size_t)written);
    if (!one->out.length) watch(epoll, EPOLL_CTL_MOD, descriptor(one), EPOLLIN);
    one->waits_for_room = one->out.length;
}

/* Write a chunk of HTTP at `to`, and return its length. */
static int chunk(char *to, const char *event) {
    return sprintf(to, "%zx\r\n%s\r\n", strlen(event), event);
}

/* Write one event of a stream, as a chunk, at `to`. `usage` is empty, or the usage of a text completion. */
static int event(char *to, const struct connection *one, const char *role, const char *text, const char *finish) {
    char choice[512], whole[1024];
    if (one->is_chat)
        snprintf(choice, sizeof choice, CHAT, role, text, finish);
    else
        snprintf(choice, sizeof choice, TEXT, text, finish);
    snprintf(whole, sizeof whole, FRAME, one->is_chat ? "chat.completion.chunk" : "text_completion", choice, "");
    return chunk(to, whole);
}

static int last_events(char *to, const struct connection *one) {
    char usage[256], whole[1024];
    int length = 0;
    if (one->wants_usage) {
        snprintf(usage, sizeof usage, USAGE, 500 + one->tokens, one->tokens);
        snprintf(whole, sizeof whole, FRAME, one->is_chat ? "chat.completion.chunk" : "text_completion", "", usage);
        length = chunk(to, whole);
    }
    length += chunk(to + length, "data: [DONE]\n\n");
    return length + sprintf(to + length, "0\r\n\r\n");
}

static void put_token(struct connection *one) {
    char frames[4096];
    bool is_last = one->sent + 1 == one->tokens;
    int length = one->is_chat && !one->sent ? event(frames, one, "\"role\":\"assistant\",", "", "null") : 0;
    length += event(frames + length, one, "", " word", is_last ? "\"length\"" : "null");
    if (is_last) length += last_events(frames + length, one);
    leave_queue(one);
    one->sent++;
    one->due = one->started + (one->sent + 1) * interval;
    if (is_last)
        one->tokens = 0;
    else
        enter_queue(one);
    put(one, frames, (size_t)length);
}

static void put_due_tokens(void) {
    for (double now = now_seconds(); first && first->due <= now; now = now_seconds()) {
        count_time(&late, now - first->due);
        put_token(first);
    }
}

static void reply(struct connection *one, const char *body) {
    char head[256];
    int length = sprintf(
        head, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n", strlen(body));
    if (put(one, head, (size_t)length)) put(one, body, strlen(body));
}

static void reply_stats(struct connection *one) {
    char body[256];
    snprintf(body, sizeof body, "{\"streams\":%llu,\"tokens\":%llu,\"late_p99_ms\":%.1f,\"late_max_ms\":%.1f}",
             (unsigned long long)streams, (unsigned long long)late.total, quantile(&late, 0.99), 1e3 * late.largest);
    late = (struct histogram){0};
    streams = 0;
    reply(one, body);
}

/* The value of a key, found as text: no message of the benchmark contains the name of a key. */
static const char *value_of(const char *body, const char *key) {
    const char *found = strstr(body, key);
    return found ? found + strlen(key) + strspn(found + strlen(key), " ") : NULL;
}

static bool is_true(const char *body, const char *key) {
    const char *value = value_of(body, key);
    return value && !strncmp(value, "true", 4);
}

static void start_stream(struct connection *one, const char *body) {
    const char *tokens = value_of(body, "\"max_tokens\":");
    if (!tokens) tokens = value_of(body, "\"max_completion_tokens\":");
    one->tokens = tokens && atoi(tokens) > 0 ? atoi(tokens) : 16;
    one->wants_usage = is_true(body, "\"include_usage\":");
    one->sent = 0;
    one->started = now_seconds();
    one->due = one->started + interval;
    streams++;
    enter_queue(one);
    put(one, HEAD, strlen(HEAD));
}

static void reply_whole(struct connection *one) {
    char choice[512], whole[1024];
    const char *chat = "\"message\":{\"role\":\"assistant\",\"content\":\"word\"}", *text = "\"text\":\" word\"";
    const char *said = one->is_chat ? chat : text;
    snprintf(choice, sizeof choice, "{\"index\":0,%s,\"logprobs\":null,\"finish_reason\":\"stop\"}", said);
    snprintf(whole, sizeof whole, FRAME, one->is_chat ? "chat.completion" : "text_completion", choice,
             ",\"usage\":{\"prompt_tokens\":500,\"total_tokens\":501,\"completion_tokens\":1}");
    reply(one, whole + strlen("data: "));
}

static void answer(struct connection *one, const char *head, const char *body) {
    if (strstr(head, "/completions ")) {
        one->is_chat = strstr(head, "/chat/completions ");
        if (is_true(body, "\"stream\":"))
            start_stream(one, body);
        else
            reply_whole(one);
    } else if (strstr(head, " /v1/models ")) {
        reply(one, MODELS);
    } else if (strstr(head, " /tokenize ")) {
        reply(one, "{\"count\":100,\"max_model_len\":131072,\"tokens\":[]}");
    } else if (strstr(head, " /stats ")) {
        reply_stats(one);
    } else {
        reply(one, "{}");
    }
}

/* Answer the requests that have arrived whole. A client sends the next one after the end of a stream. */
static void answer_requests(struct connection *one) {
    while (one->is_open && !one->tokens && one->in.length) {
        append(&one->in, "", 1); /* the zero byte that ends a C string */
        one->in.length--;
        char *split = strstr(one->in.data, "\r\n\r\n");
        if (!split) return;
        const char *length = (*split = 0, header(one->in.data, "content-length:"));
        size_t body = length ? strtoul(length, NULL, 10) : 0, head = (size_t)(split + 4 - one->in.data);
        if (body > MAX_REQUEST || header(one->in.data, "transfer-encoding:")) {
            end(one);
            return;
        }
        *split = '\r';
        if (one->in.length < head + body) return;
        *split = 0;
        char kept = one->in.data[head + body];
        one->in.data[head + body] = 0;
        *strstr(one->in.data, "\r\n") = 0; /* the first line is enough */
        answer(one, one->in.data, one->in.data + head);
        if (!one->is_open) return;
        one->in.data[head + body] = kept;
        drop_first(&one->in, head + body);
    }
}

static void receive(struct connection *one) {
    static char buffer[1 << 18];
    ssize_t length = read(descriptor(one), buffer, sizeof buffer);
    if (length < 0 && errno == EAGAIN) return;
    if (length <= 0) {
        end(one);
        return;
    }
    append(&one->in, buffer, (size_t)length);
    answer_requests(one);
}

static void accept_all(int listener) {
    for (int fd; (fd = accept(listener, NULL, NULL)) >= 0;) {
        if (fd >= MAX_DESCRIPTORS) {
            close(fd);
            continue;
        }
        never_block(fd);
        connections[fd] = (struct connection){.is_open = true};
        watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN);
    }
}

static int listen_on(int port) {
    int one = 1, listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = loopback(port);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) die("bind");
    if (listen(listener, 4096) < 0) die("listen");
    never_block(listener);
    return listener;
}

int main(int count, char **arguments) {
    if (count != 3 || atof(arguments[2]) <= 0) {
        fprintf(stderr, "usage: backend PORT TOKENS_PER_SECOND\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    interval = 1 / atof(arguments[2]);
    epoll = epoll_create1(0);
    int listener = listen_on(atoi(arguments[1])), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN);
    watch(epoll, EPOLL_CTL_ADD, timer, EPOLLIN | EPOLLET);
    for (struct epoll_event events[MAX_EVENTS];;) {
        if (first) set_timer(timer, first->due);
        int ready = epoll_wait(epoll, events, MAX_EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) accept_all(listener);
            if (fd == listener || fd == timer || !connections[fd].is_open) continue;
            if (events[i].events & EPOLLOUT) put_rest(&connections[fd]);
            if (connections[fd].is_open && events[i].events & ~(uint32_t)EPOLLOUT) receive(&connections[fd]);
        }
        put_due_tokens();
    }
}
