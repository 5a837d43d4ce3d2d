/*
 * node-echo.ts in C, for one connection at a time: the least that a server in user space costs.
 *
 *   echo        prints "Listening on 127.0.0.1:PORT"
 *
 * A connection's first 8 octets name the octets of a request and of a reply (u32, network order). Each
 * request is read, by as large reads as there are, and answered by a reply of zeros in one write.
 */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { READ_OCTETS = 256 * 1024, REPLY_OCTETS_MAX = 32 << 20 };

static unsigned char memory[READ_OCTETS];

static int read_all(int fd, void *into, size_t octets) {
  for (size_t done = 0; done < octets;) {
    ssize_t some = read(fd, (char *)into + done, octets - done);
    if (some <= 0) return 0;
    done += (size_t)some;
  }
  return 1;
}

static int write_all(int fd, const void *from, size_t octets) {
  for (size_t done = 0; done < octets;) {
    ssize_t some = write(fd, (const char *)from + done, octets - done);
    if (some <= 0) return 0;
    done += (size_t)some;
  }
  return 1;
}

static void serve(int fd) {
  uint32_t sizes[2];
  if (!read_all(fd, sizes, sizeof sizes)) return;
  size_t request = ntohl(sizes[0]), reply = ntohl(sizes[1]), pending = 0;
  if (request == 0 || reply == 0 || reply > REPLY_OCTETS_MAX) return;
  unsigned char *zeros = calloc(1, reply);
  while (zeros != NULL) {
    ssize_t some = read(fd, memory, sizeof memory);
    if (some <= 0) break;
    for (pending += (size_t)some; pending >= request; pending -= request) {
      if (!write_all(fd, zeros, reply)) break;
    }
  }
  free(zeros);
}

int main(void) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t octets = sizeof address;
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, octets) < 0 ||
      listen(listener, 8) < 0 || getsockname(listener, (struct sockaddr *)&address, &octets) < 0) {
    perror("echo");
    return 1;
  }
  printf("Listening on 127.0.0.1:%u\n", ntohs(address.sin_port));
  fflush(stdout);
  for (;;) {
    int fd = accept(listener, NULL, NULL);
    if (fd < 0) return 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    serve(fd);
    close(fd);
  }
}
