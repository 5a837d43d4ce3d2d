/*
 * How long a class driver takes from its start to its first data.
 *
 *   open-delays tty PATH ROUNDS      opens a port that answers what it is sent, writes, and reads
 *   open-delays event PATH ROUNDS    opens an input device that somebody moves, and reads
 *   open-delays net NAME ROUNDS      sets a network card up, and asks ASKED for its address
 *
 * After each round it closes the device, or sets the card down. It prints milliseconds, a line for
 * each round, and ends with 1 if there is no data for LIMIT_MILLISECONDS.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/if_ether.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define LIMIT_MILLISECONDS 20000
#define PAUSE_MICROSECONDS 20000
/* The host at the far end of QEMU's network, and an address beside it. */
#define ASKED "10.0.9.2"
#define ASKING "10.0.9.15"
#define ASK_AGAIN_MILLISECONDS 5

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void die(const char *what) {
  fprintf(stderr, "open-delays: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void wait_for(int file) {
  struct pollfd ready = {file, POLLIN, 0};
  int count = poll(&ready, 1, LIMIT_MILLISECONDS);
  if (count == 0) errno = ETIMEDOUT;
  if (count <= 0) die("Cannot read");
}

static double tty(const char *path) {
  static int raw;
  char answer[64];
  double begun = now();
  int file = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) die(path);
  if (!raw) {
    struct termios how;
    if (tcgetattr(file, &how) < 0) die(path);
    cfmakeraw(&how);
    how.c_cflag |= CLOCAL;
    if (tcsetattr(file, TCSANOW, &how) < 0) die(path);
    raw = 1;
  }
  if (write(file, "?", 1) != 1) die("Cannot write");
  wait_for(file);
  if (read(file, answer, sizeof answer) <= 0) die("Cannot read");
  double taken = now() - begun;
  close(file);
  return taken;
}

static double event(const char *path) {
  char events[1024];
  double begun = now();
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) die(path);
  wait_for(file);
  if (read(file, events, sizeof events) <= 0) die("Cannot read");
  double taken = now() - begun;
  close(file);
  return taken;
}

static void set_flags(int control, const char *name, short on, short off) {
  struct ifreq card = {0};
  strncpy(card.ifr_name, name, sizeof card.ifr_name - 1);
  if (ioctl(control, SIOCGIFFLAGS, &card) < 0) die(name);
  card.ifr_flags = (short)((card.ifr_flags | on) & ~off);
  if (ioctl(control, SIOCSIFFLAGS, &card) < 0) die(name);
}

static struct ether_arp question(int control, const char *name) {
  struct ifreq card = {0};
  strncpy(card.ifr_name, name, sizeof card.ifr_name - 1);
  if (ioctl(control, SIOCGIFHWADDR, &card) < 0) die(name);
  struct ether_arp ask = {0};
  ask.arp_hrd = htons(ARPHRD_ETHER);
  ask.arp_pro = htons(ETHERTYPE_IP);
  ask.arp_hln = ETH_ALEN;
  ask.arp_pln = 4;
  ask.arp_op = htons(ARPOP_REQUEST);
  memcpy(ask.arp_sha, card.ifr_hwaddr.sa_data, ETH_ALEN);
  inet_pton(AF_INET, ASKING, ask.arp_spa);
  inet_pton(AF_INET, ASKED, ask.arp_tpa);
  return ask;
}

static double net(const char *name) {
  int control = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  struct ether_arp ask = question(control, name), answer;
  struct sockaddr_ll everyone = {.sll_family = AF_PACKET,
                                 .sll_protocol = htons(ETHERTYPE_ARP),
                                 .sll_ifindex = (int)if_nametoindex(name),
                                 .sll_halen = ETH_ALEN};
  memset(everyone.sll_addr, 0xff, ETH_ALEN);
  double begun = now(), taken = 0;
  set_flags(control, name, IFF_UP, 0);
  int file = socket(AF_PACKET, SOCK_DGRAM | SOCK_CLOEXEC, htons(ETHERTYPE_ARP));
  if (file < 0 || bind(file, (struct sockaddr *)&everyone, sizeof everyone) < 0) die(name);
  while (taken == 0) {
    struct pollfd ready = {file, POLLIN, 0};
    if (now() - begun > LIMIT_MILLISECONDS) {
      errno = ETIMEDOUT;
      die("Cannot hear an answer");
    }
    /* There is no carrier at first. */
    sendto(file, &ask, sizeof ask, 0, (struct sockaddr *)&everyone, sizeof everyone);
    if (poll(&ready, 1, ASK_AGAIN_MILLISECONDS) <= 0) continue;
    while (recv(file, &answer, sizeof answer, MSG_DONTWAIT) == sizeof answer)
      if (answer.arp_op == htons(ARPOP_REPLY)) taken = now() - begun;
  }
  set_flags(control, name, 0, IFF_UP);
  close(file);
  close(control);
  return taken;
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  for (long round = strtol(argv[3], NULL, 10); round > 0; round--) {
    double taken = strcmp(argv[1], "tty") == 0     ? tty(argv[2])
                   : strcmp(argv[1], "event") == 0 ? event(argv[2])
                                                   : net(argv[2]);
    printf("%.1f\n", taken);
    fflush(stdout);
    usleep(PAUSE_MICROSECONDS);
  }
  return 0;
}
