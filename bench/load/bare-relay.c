/*
 * The least that a relay costs: moves octets between two connected sockets and looks at none.
 *
 *   bare-relay copy|splice        descriptor 3: towards the server; 4: towards the client
 *
 * `splice` moves what comes from the server page by page through a pipe; commands are copied either way. It
 * ends with SIGTERM or a connection, and prints the seconds of CPU time that it used.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SERVER = 3, CLIENT = 4, READ_OCTETS = 256 * 1024, PIPE_OCTETS = 1 << 20 };

static volatile sig_atomic_t ended;
static char memory[READ_OCTETS];
static int ends[2];

static void end(int signal) {
  (void)signal;
  ended = 1;
}

/* After a write that would have blocked. */
static int wait_for(int fd) {
  struct pollfd one = {.fd = fd, .events = POLLOUT};
  return errno == EAGAIN && poll(&one, 1, 1000) >= 0;
}

static int copy(int from, int to) {
  ssize_t octets = recv(from, memory, sizeof memory, 0);
  if (octets <= 0) return octets < 0 && errno == EAGAIN;
  for (ssize_t at = 0; at < octets;) {
    ssize_t some = send(to, memory + at, (size_t)(octets - at), MSG_NOSIGNAL);
    if (some > 0) at += some;
    else if (!wait_for(to)) return 0;
  }
  return 1;
}

static int move(int from, int to) {
  ssize_t octets = splice(from, NULL, ends[1], NULL, PIPE_OCTETS, SPLICE_F_NONBLOCK);
  if (octets <= 0) return octets < 0 && errno == EAGAIN;
  while (octets > 0) {
    ssize_t some = splice(ends[0], NULL, to, NULL, (size_t)octets, SPLICE_F_NONBLOCK);
    if (some > 0) octets -= some;
    else if (!wait_for(to)) return 0;
  }
  return 1;
}

int main(int count, char **words) {
  int splices = count > 1 && strcmp(words[1], "splice") == 0, poller = epoll_create1(0);
  sigaction(SIGTERM, &(struct sigaction){.sa_handler = end}, NULL);
  if (poller < 0 || pipe2(ends, O_NONBLOCK) < 0 || fcntl(ends[1], F_SETPIPE_SZ, PIPE_OCTETS) < 0) {
    perror("bare-relay");
    return 1;
  }
  for (int fd = SERVER; fd <= CLIENT; fd++) {
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0) {
      perror("bare-relay");
      return 1;
    }
  }
  while (!ended) {
    struct epoll_event events[2];
    int ready = epoll_wait(poller, events, 2, -1);
    for (int n = 0; n < ready && !ended; n++) {
      int from = events[n].data.fd, to = from == SERVER ? CLIENT : SERVER;
      ended = !(splices && from == SERVER ? move(from, to) : copy(from, to));
    }
  }
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  printf("%f\n", (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                     (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
}
