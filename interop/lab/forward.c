/*
 * Carries one TCP connection of a lab guest to a port on this machine's loopback.
 *
 * QEMU's user-mode network starts one of these for each connection to a forwarded address
 * (`guestfwd=...-cmd:`), with the connection as standard input, output and error; a guestfwd with
 * a character device would serve a single connection. The port is read from a file at each start,
 * so a running guest can be pointed at another gateway. Nothing may be printed: standard error is
 * the connection as well.
 *
 * Half-close goes through in both directions. When QEMU is killed its end is closed by the kernel,
 * which arrives here as an end of input, and so at the gateway as well.
 *
 * Usage: forward PORT-FILE
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUFFER_OCTETS (1 << 18)

struct flow {
  int from, to, ended;
  size_t start, end;
  char buffer[BUFFER_OCTETS];
};

static struct flow flows[2];

/* Moves what can be moved without waiting. Returns 0 when the connection is broken. */
static int move(struct flow *flow) {
  int on = 1;
  if (!flow->ended && flow->start == flow->end) {
    ssize_t octets = recv(flow->from, flow->buffer, BUFFER_OCTETS, MSG_DONTWAIT);
    if (octets < 0) return errno == EAGAIN || errno == EINTR;
    if (octets == 0) {
      flow->ended = 1;
      shutdown(flow->to, SHUT_WR);
      return 1;
    }
    flow->start = 0;
    flow->end = (size_t)octets;
    /* QEMU leaves Nagle's algorithm on at its end: a late acknowledgement would hold data back. */
    setsockopt(flow->from, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
  }
  if (flow->start < flow->end) {
    size_t octets = flow->end - flow->start;
    ssize_t done = send(flow->to, flow->buffer + flow->start, octets, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done < 0) return errno == EAGAIN || errno == EINTR;
    flow->start += (size_t)done;
  }
  return 1;
}

int main(int argc, char **argv) {
  unsigned port = 0;
  int on = 1;
  FILE *file = argc > 1 ? fopen(argv[1], "r") : NULL;
  if (file == NULL || fscanf(file, "%u", &port) != 1 || port == 0 || port > 65535) return 1;
  fclose(file);
  signal(SIGPIPE, SIG_IGN);
  int gateway = socket(AF_INET, SOCK_STREAM, 0);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(gateway, (struct sockaddr *)&address, sizeof address) < 0) return 1;
  setsockopt(gateway, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(0, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  setsockopt(0, IPPROTO_TCP, TCP_QUICKACK, &on, sizeof on);
  flows[0].from = flows[1].to = 0;
  flows[0].to = flows[1].from = gateway;

  while (!flows[0].ended || !flows[1].ended) {
    struct pollfd ends[2] = {{0, 0, 0}, {gateway, 0, 0}};
    for (int i = 0; i < 2; i++) {
      int waiting = flows[i].start < flows[i].end;
      if (waiting) ends[1 - i].events |= POLLOUT;
      if (!waiting && !flows[i].ended) ends[i].events |= POLLIN;
    }
    if (poll(ends, 2, -1) < 0) return 1;
    if ((ends[0].revents | ends[1].revents) & POLLERR) return 1;
    if (!move(&flows[0]) || !move(&flows[1])) return 1;
  }
  return 0;
}
