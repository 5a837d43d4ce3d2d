/*
 * Joins a second console of a Xen domain to this program's standard input and output, in dom0.
 *
 * The agent of a domain (guest-agent.c) talks over it, so that the first console stays with the
 * kernel's messages. Xen's own daemon serves the first one only, and QEMU, which can serve others,
 * takes seconds to start; hence this back end. It makes the nodes in xenstore, for which the domain
 * must be there and paused, waits for the front end (Linux's hvc_xen), and ends when the domain
 * has, or its own input. It needs nothing but the kernel's devices.
 *
 * A ring is one page; the structure and the state numbers are those of Xen's public
 * io/console.h and io/xenbus.h, the messages to xenstore those of io/xs_wire.h.
 *
 * Usage: xen-port DOMAIN DEVICE      device 1 is /dev/hvc1 in the domain
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* The kernel's headers leave these two to Xen's own. */
typedef uint16_t domid_t;
typedef uint32_t grant_ref_t;
#include <xen/evtchn.h>
#include <xen/gntdev.h>

#define PAGE_OCTETS 4096
#define TEXT_OCTETS_MAX 1024
#define LOOK_MILLISECONDS 100
#define CONNECT_LOOK_MICROSECONDS 20000

enum store { DIRECTORY = 1, READ = 2, WRITE = 11, REMOVE = 13, PERMISSIONS = 14, FAILURE = 16 };
enum state { INITIALISING = 1, INIT_WAIT = 2, INITIALISED = 3, CONNECTED = 4 };

struct message {
  uint32_t type, request, transaction, octets;
};

/* struct xencons_interface: "in" is towards the domain. */
struct ring {
  char in[1024];
  char out[2048];
  uint32_t in_consumed, in_produced, out_consumed, out_produced;
};

static int store, channel, grants;
static unsigned port;
static int domain, device;
static volatile sig_atomic_t asked_to_end;

static void fail(const char *what) {
  fprintf(stderr, "xen-port: %s: %s\n", what, strerror(errno));
  exit(1);
}

static void end(int number) {
  (void)number;
  asked_to_end = 1;
}

static void write_all(int file, const void *data, size_t octets) {
  for (const char *at = data; octets > 0;) {
    ssize_t done = write(file, at, octets);
    if (done < 0 && errno == EINTR && !asked_to_end) continue;
    if (done < 0) fail("Cannot write");
    at += done;
    octets -= (size_t)done;
  }
}

static void read_all(int file, void *data, size_t octets) {
  for (char *at = data; octets > 0;) {
    ssize_t done = read(file, at, octets);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) fail("Cannot read from xenstore");
    at += done;
    octets -= (size_t)done;
  }
}

/* Sends a request whose payload is `octets` long, and reads the answer as text. 0 if it is done. */
static int ask(enum store type, const char *payload, size_t octets, char *answer) {
  struct message message = {type, 0, 0, (uint32_t)octets};
  char whole[sizeof message + 2 * TEXT_OCTETS_MAX];
  memcpy(whole, &message, sizeof message);
  memcpy(whole + sizeof message, payload, octets);
  write_all(store, whole, sizeof message + octets);
  read_all(store, &message, sizeof message);
  char text[PAGE_OCTETS + 1];
  if (message.octets > PAGE_OCTETS) fail("Cannot take an answer of xenstore: it is too long");
  read_all(store, text, message.octets);
  text[message.octets] = 0;
  text[TEXT_OCTETS_MAX - 1] = 0;
  if (answer) strcpy(answer, text);
  return message.type == FAILURE ? -1 : 0;
}

static const char *node(const char *side, const char *name) {
  static char path[TEXT_OCTETS_MAX];
  int back = side[0] == 'b';
  snprintf(path, sizeof path, back ? "/local/domain/0/backend/console/%d/%d%s%s"
                                   : "/local/domain/%d/device/console/%d%s%s",
           domain, device, *name ? "/" : "", name);
  return path;
}

static void put(const char *path, const char *format, ...) {
  char payload[2 * TEXT_OCTETS_MAX];
  size_t used = (size_t)snprintf(payload, TEXT_OCTETS_MAX, "%s", path) + 1;
  va_list values;
  va_start(values, format);
  used += (size_t)vsnprintf(payload + used, TEXT_OCTETS_MAX, format, values);
  va_end(values);
  if (ask(WRITE, payload, used, NULL)) fail("Cannot write to xenstore");
}

static void permit(const char *path, int owner, int reader) {
  char payload[TEXT_OCTETS_MAX + 32];
  size_t used = (size_t)snprintf(payload, TEXT_OCTETS_MAX, "%s", path) + 1;
  used += (size_t)sprintf(payload + used, "n%d", owner) + 1;
  used += (size_t)sprintf(payload + used, "r%d", reader) + 1;
  if (ask(PERMISSIONS, payload, used, NULL)) fail("Cannot set permissions in xenstore");
}

/* -1 if there is no such number. */
static long front(const char *name) {
  char text[TEXT_OCTETS_MAX];
  const char *path = node("front", name);
  return ask(READ, path, strlen(path) + 1, text) ? -1 : strtol(text, NULL, 10);
}

static void make_nodes(void) {
  char other[TEXT_OCTETS_MAX];
  /* A node below one with permissions set has the same. */
  put(node("back", ""), "");
  permit(node("back", ""), 0, domain);
  put(node("front", ""), "");
  permit(node("front", ""), domain, 0);
  snprintf(other, sizeof other, "%s", node("front", ""));
  put(node("back", "frontend"), "%s", other);
  put(node("back", "frontend-id"), "%d", domain);
  put(node("back", "online"), "1");
  put(node("back", "state"), "%d", INIT_WAIT);
  snprintf(other, sizeof other, "%s", node("back", ""));
  put(node("front", "backend"), "%s", other);
  put(node("front", "backend-id"), "0");
  put(node("front", "state"), "%d", INITIALISING);
}

/* Removes the back end's nodes, and the folder of the domain if nothing else is in it. */
static void remove_nodes(void) {
  char path[TEXT_OCTETS_MAX], names[TEXT_OCTETS_MAX];
  snprintf(path, sizeof path, "%s", node("back", ""));
  ask(REMOVE, path, strlen(path) + 1, NULL);
  *strrchr(path, '/') = 0;
  if (ask(DIRECTORY, path, strlen(path) + 1, names) == 0 && names[0] == 0)
    ask(REMOVE, path, strlen(path) + 1, NULL);
}

static struct ring *connect_ring(void) {
  long state;
  while ((state = front("state")) != INITIALISED && state != CONNECTED) {
    if (state < 0 || asked_to_end) return NULL; /* the domain ended before it came so far */
    usleep(CONNECT_LOOK_MICROSECONDS);
  }
  struct ioctl_gntdev_map_grant_ref map = {.count = 1};
  map.refs[0].domid = (uint32_t)domain;
  map.refs[0].ref = (uint32_t)front("ring-ref");
  if (ioctl(grants, IOCTL_GNTDEV_MAP_GRANT_REF, &map)) fail("Cannot map the ring");
  void *page = mmap(NULL, PAGE_OCTETS, PROT_READ | PROT_WRITE, MAP_SHARED, grants, (off_t)map.index);
  if (page == MAP_FAILED) fail("Cannot map the ring");
  struct ioctl_evtchn_bind_interdomain bind = {(unsigned)domain, (unsigned)front("port")};
  int bound = ioctl(channel, IOCTL_EVTCHN_BIND_INTERDOMAIN, &bind);
  if (bound < 0) fail("Cannot bind the event channel");
  port = (unsigned)bound;
  put(node("back", "state"), "%d", CONNECTED);
  return page;
}

/* What the domain has written. @returns how many octets were moved */
static uint32_t take_output(struct ring *ring) {
  uint32_t consumed = ring->out_consumed;
  uint32_t octets = __atomic_load_n(&ring->out_produced, __ATOMIC_ACQUIRE) - consumed;
  char block[sizeof ring->out];
  if (octets > sizeof block) octets = sizeof block;
  for (uint32_t at = 0; at < octets; at++) block[at] = ring->out[(consumed + at) % sizeof block];
  __atomic_store_n(&ring->out_consumed, consumed + octets, __ATOMIC_RELEASE);
  return write_all(1, block, octets), octets;
}

static uint32_t input_space(struct ring *ring) {
  uint32_t waiting = ring->in_produced - __atomic_load_n(&ring->in_consumed, __ATOMIC_ACQUIRE);
  return waiting > sizeof ring->in ? 0 : (uint32_t)sizeof ring->in - waiting;
}

/* @returns how many octets were moved, or -1 at the end of the input */
static long give_input(struct ring *ring) {
  char block[sizeof ring->in];
  ssize_t octets = read(0, block, input_space(ring));
  if (octets < 0 && errno == EINTR) return 0;
  if (octets <= 0) return -1;
  uint32_t produced = ring->in_produced;
  for (ssize_t at = 0; at < octets; at++)
    ring->in[(produced + (uint32_t)at) % sizeof block] = block[at];
  __atomic_store_n(&ring->in_produced, produced + (uint32_t)octets, __ATOMIC_RELEASE);
  return octets;
}

static void relay(struct ring *ring) {
  while (!asked_to_end) {
    struct pollfd ends[2] = {{channel, POLLIN, 0}, {input_space(ring) > 0 ? 0 : -1, POLLIN, 0}};
    int ready = poll(ends, 2, LOOK_MILLISECONDS);
    if (ready == 0 && front("state") < 0) return; /* its nodes go with the domain */
    unsigned fired;
    if (ends[0].revents && read(channel, &fired, sizeof fired) == sizeof fired)
      write_all(channel, &fired, sizeof fired); /* lets the next event in */
    long moved = ready > 0 && ends[1].revents ? give_input(ring) : 0;
    if (moved < 0) return;
    moved += take_output(ring);
    struct ioctl_evtchn_notify notify = {port};
    /* Only for octets: hvc_xen is made to wait by an event that says nothing. */
    if (moved > 0) ioctl(channel, IOCTL_EVTCHN_NOTIFY, &notify);
  }
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  domain = atoi(argv[1]);
  device = atoi(argv[2]);
  struct sigaction action = {.sa_handler = end};
  sigaction(SIGTERM, &action, NULL);
  store = open("/dev/xen/xenbus", O_RDWR | O_CLOEXEC);
  channel = open("/dev/xen/evtchn", O_RDWR | O_CLOEXEC);
  grants = open("/dev/xen/gntdev", O_RDWR | O_CLOEXEC);
  if (store < 0 || channel < 0 || grants < 0) fail("Cannot open a device of Xen");
  make_nodes();
  fprintf(stderr, "xen-port: ready\n");
  struct ring *ring = connect_ring();
  if (ring != NULL) relay(ring);
  remove_nodes();
  return 0;
}
