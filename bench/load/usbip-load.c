/*
 * usbip-load: a USB/IP client that keeps D URBs in flight on one connection and checks every reply.
 *
 * It attaches a source/sink device (bulk IN of zeros, bulk OUT that swallows), as `usbip attach` does:
 * OP_REQ_IMPORT, GET_DESCRIPTOR(device), SET_CONFIGURATION(1). Then it runs one kind of URB:
 *
 *   control  GET_DESCRIPTOR(device), 18 octets IN; they must equal those of the first answer
 *   out      bulk OUT of --size octets; the reply says how many were taken and carries no data
 *   in       bulk IN of --size octets; all of them must be zero
 *
 * Of every reply it checks: command, a sequence number that is in flight, status 0, actual_length, payload.
 * With --echo there is no USB/IP: the first 8 octets name the request and reply sizes (u32, network order),
 * then the very same messages flow and only the number of octets (and, for `in`, the zeros) is checked.
 *
 * With --fd there is no import either: the descriptor is a connection that brings URBs at once, as the
 * kernel's vhci_hcd is given it; --devid is the device's.
 *
 * It never spins: it sleeps in recv(2), or in poll(2) while the socket's send buffer is full. Requests
 * go out in one sendmsg for as many as were answered since the last one; with --single one by one,
 * as the kernel's vhci_hcd sends them. One line of JSON on stdout; exit 1 after any wrong reply.
 *
 * Wire facts: Linux Documentation/usb/usbip_protocol.rst, drivers/usb/usbip/usbip_common.h.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { HEADER_OCTETS = 48, DESCRIPTOR_OCTETS = 18, DEPTH_MAX = 1024, SIZE_MAX_OCTETS = 16 << 20 };
enum { READ_OCTETS = 1 << 20, PARTS_MAX = 512, SAMPLES_MAX = 1 << 20, REPLY_TIMEOUT_SECONDS = 10 };
enum { CMD_SUBMIT = 1, RET_SUBMIT = 3, DIR_OUT = 0, DIR_IN = 1 };
enum kind { CONTROL, BULK_OUT, BULK_IN };

static struct {
  const char *host, *port, *busid;
  enum kind kind;
  uint32_t size, depth, epIn, epOut;
  double seconds, warmup;
  uint64_t urbs;            /* 0: run for `seconds` */
  int interface, alternate; /* SET_INTERFACE is sent if interface >= 0 */
  long serverPid;           /* 0: do not read the server's CPU time */
  int fd;                   /* -1: connect and import */
  bool single, echo, hold;
} options = {.host = "127.0.0.1", .port = "3240", .busid = "1-1", .size = 64, .depth = 1, .epIn = 1,
             .epOut = 2, .seconds = 2, .warmup = 0.3, .interface = -1, .fd = -1};

static int fd;
static uint32_t devid, nextSeqnum = 1;
static uint8_t descriptor[DESCRIPTOR_OCTETS];
static uint8_t *zeros; /* what bulk OUT sends and bulk IN must bring */

/* ---- failing: one line of JSON, exit 1 ---- */

static uint64_t urbsDone;

static void failed(const char *format, ...) {
  char text[400];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  printf("{\"urbs\":%llu,\"errors\":1,\"firstError\":\"%s\"}\n", (unsigned long long)urbsDone, text);
  exit(1);
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double ownCpuSeconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* utime + stime of the server, fields 14 and 15 of /proc/PID/stat; -1 if there is nothing to read. */
static double serverCpuSeconds(void) {
  if (options.serverPid == 0) return -1;
  char path[64], line[1024];
  snprintf(path, sizeof path, "/proc/%ld/stat", options.serverPid);
  FILE *file = fopen(path, "r");
  if (file == NULL) return -1;
  size_t length = fread(line, 1, sizeof line - 1, file);
  fclose(file);
  line[length] = 0;
  char *rest = strrchr(line, ')'); /* the name before it may hold blanks */
  unsigned long user = 0, system = 0;
  if (rest == NULL ||
      sscanf(rest + 1, " %*c %*s %*s %*s %*s %*s %*s %*s %*s %*s %*s %lu %lu", &user, &system) != 2) {
    return -1;
  }
  return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* CPU time that the whole machine spent on anything, stolen time included; -1 if unknown. */
static double machineCpuSeconds(void) {
  FILE *file = fopen("/proc/stat", "r");
  if (file == NULL) return -1;
  unsigned long long user, nice, system, idle, wait, irq, softirq, steal;
  int count = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle,
                     &wait, &irq, &softirq, &steal);
  fclose(file);
  if (count != 8) return -1;
  return (double)(user + nice + system + irq + softirq + steal) / (double)sysconf(_SC_CLK_TCK);
}

/* ---- octets ---- */

static void put32(uint8_t *at, uint32_t value) {
  value = htonl(value);
  memcpy(at, &value, 4);
}

static uint32_t get32(const uint8_t *at) {
  uint32_t value;
  memcpy(&value, at, 4);
  return ntohl(value);
}

static void writeSubmit(uint8_t *header, uint32_t direction, uint32_t endpoint, uint32_t length,
                        const uint8_t setup[8]) {
  memset(header, 0, HEADER_OCTETS);
  put32(header, CMD_SUBMIT);
  put32(header + 8, devid);
  put32(header + 12, direction);
  put32(header + 16, endpoint);
  put32(header + 24, length);
  put32(header + 32, 0xffffffff); /* number_of_packets: not isochronous */
  if (setup != NULL) memcpy(header + 40, setup, 8);
}

static void sendAll(const void *octets, size_t length) {
  const uint8_t *at = octets;
  while (length > 0) {
    ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);
    if (sent <= 0) failed("Cannot send: %s", strerror(errno));
    at += sent;
    length -= (size_t)sent;
  }
}

static void receiveAll(void *octets, size_t length, const char *what) {
  uint8_t *at = octets;
  while (length > 0) {
    ssize_t got = recv(fd, at, length, 0);
    if (got == 0) failed("Cannot receive %s: the server closed the connection", what);
    if (got < 0) failed("Cannot receive %s: %s", what, strerror(errno));
    at += got;
    length -= (size_t)got;
  }
}

/* ---- attaching ---- */

static void connectToServer(void) {
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *list;
  int problem = getaddrinfo(options.host, options.port, &hints, &list);
  if (problem != 0) failed("Cannot resolve %s: %s", options.host, gai_strerror(problem));
  fd = socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, list->ai_addr, list->ai_addrlen) != 0) {
    failed("Cannot connect to %s:%s: %s", options.host, options.port, strerror(errno));
  }
  freeaddrinfo(list);
  int on = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct timeval timeout = {.tv_sec = REPLY_TIMEOUT_SECONDS};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
}

/* One control URB by itself, before the measurement; returns how many octets came back. */
static uint32_t controlOnce(const uint8_t setup[8], void *data, uint32_t length, const char *what) {
  uint8_t header[HEADER_OCTETS];
  uint32_t seqnum = nextSeqnum++;
  writeSubmit(header, (setup[0] & 0x80) != 0 ? DIR_IN : DIR_OUT, 0, length, setup);
  put32(header + 4, seqnum);
  sendAll(header, sizeof header);
  receiveAll(header, sizeof header, what);
  uint32_t command = get32(header), answered = get32(header + 4), actual = get32(header + 24);
  int32_t status = (int32_t)get32(header + 20);
  if (command != RET_SUBMIT || answered != seqnum) {
    failed("Cannot %s: command %u for seqnum %u, wanted 3 for %u", what, command, answered, seqnum);
  }
  if (status != 0) failed("Cannot %s: status %d", what, status);
  if (actual > length) failed("Cannot %s: %u octets, asked for %u", what, actual, length);
  if (data != NULL) receiveAll(data, actual, what);
  return actual;
}

static uint8_t record[312];

static void importDevice(void) {
  uint8_t request[8 + 32] = {0x01, 0x11, 0x80, 0x03}, reply[8];
  strncpy((char *)request + 8, options.busid, 31);
  sendAll(request, sizeof request);
  receiveAll(reply, sizeof reply, "the import reply");
  if (get32(reply) != 0x01110003 || get32(reply + 4) != 0) {
    failed("Cannot import %s: reply %08x, status %u", options.busid, get32(reply), get32(reply + 4));
  }
  receiveAll(record, sizeof record, "the device record");
  devid = get32(record + 288) << 16 | get32(record + 292);
}

static void attachDevice(void) {
  if (options.fd < 0) importDevice();
  const uint8_t getDescriptor[8] = {0x80, 6, 0, 1, 0, 0, DESCRIPTOR_OCTETS, 0};
  uint32_t got = controlOnce(getDescriptor, descriptor, DESCRIPTOR_OCTETS, "get the device descriptor");
  /* The record's idVendor is in network order, the descriptor's (offset 8) is little-endian. */
  bool same = options.fd >= 0 || (descriptor[8] == record[301] && descriptor[9] == record[300]);
  if (got != DESCRIPTOR_OCTETS || descriptor[0] != 18 || descriptor[1] != 1 || !same) {
    failed("Cannot use the device descriptor: %u octets, type %u", got, descriptor[1]);
  }
  const uint8_t setConfiguration[8] = {0x00, 9, 1};
  controlOnce(setConfiguration, NULL, 0, "set configuration 1");
  if (options.interface >= 0) {
    const uint8_t setInterface[8] = {
        0x01, 11, (uint8_t)options.alternate, 0, (uint8_t)options.interface};
    controlOnce(setInterface, NULL, 0, "set the interface");
  }
}

/* ---- the run: `issued` requests exist, `sent` of them are on the wire, `answered` came back ---- */

static uint8_t headers[DEPTH_MAX][HEADER_OCTETS]; /* of request i at i % depth, until it is sent */
static struct { uint32_t seqnum; double issuedAt; } inFlight[4 * DEPTH_MAX]; /* by seqnum; 0 is free */
static uint64_t issued, answered;
static uint64_t octetsToSend, octetsSent; /* of the whole stream of requests */
static uint32_t requestPayload, replyPayload;
static uint32_t echoSeqnum; /* an echo answers in order; its headers say nothing */

static float *samples; /* µs */
static uint64_t sampleCount;
static bool measuring;

static void prepareRun(void) {
  const uint8_t getDescriptor[8] = {0x80, 6, 0, 1, 0, 0, DESCRIPTOR_OCTETS, 0};
  requestPayload = options.kind == BULK_OUT ? options.size : 0;
  replyPayload = options.kind == BULK_IN ? options.size : options.kind == CONTROL ? DESCRIPTOR_OCTETS : 0;
  for (uint32_t i = 0; i < options.depth; i++) {
    if (options.kind == CONTROL) writeSubmit(headers[i], DIR_IN, 0, DESCRIPTOR_OCTETS, getDescriptor);
    if (options.kind == BULK_OUT) writeSubmit(headers[i], DIR_OUT, options.epOut, options.size, NULL);
    if (options.kind == BULK_IN) writeSubmit(headers[i], DIR_IN, options.epIn, options.size, NULL);
  }
  echoSeqnum = nextSeqnum;
}

static void issue(double at) {
  uint32_t seqnum = nextSeqnum++;
  if (seqnum == 0) failed("Cannot go on: the sequence numbers are used up");
  uint32_t slot = seqnum % (4 * DEPTH_MAX);
  if (inFlight[slot].seqnum != 0) failed("Cannot go on: URB %u starves", inFlight[slot].seqnum);
  inFlight[slot].seqnum = seqnum;
  inFlight[slot].issuedAt = at;
  put32(headers[issued % options.depth] + 4, seqnum);
  issued++;
  octetsToSend += HEADER_OCTETS + requestPayload;
}

/* Sends what it can without sleeping; returns false when the send buffer is full. */
static bool sendPending(void) {
  const uint64_t message = HEADER_OCTETS + requestPayload;
  while (octetsSent < octetsToSend) {
    struct iovec parts[PARTS_MAX];
    int count = 0;
    uint64_t at = octetsSent, until = octetsToSend;
    if (options.single) until = (at / message + 1) * message;
    while (at < until && count + 2 <= PARTS_MAX) {
      uint64_t index = at / message, offset = at % message;
      uint8_t *header = headers[index % options.depth];
      if (offset < HEADER_OCTETS) {
        /* Headers without payload lie one behind the other until the ring wraps. */
        uint64_t run = 1;
        if (requestPayload == 0) {
          run = options.depth - index % options.depth;
          if (run > (until - at + offset) / message) run = (until - at + offset) / message;
        }
        parts[count++] = (struct iovec){header + offset, run * HEADER_OCTETS - offset};
        at += run * HEADER_OCTETS - offset;
        offset = HEADER_OCTETS;
      }
      if (requestPayload > 0) {
        uint64_t done = offset - HEADER_OCTETS;
        parts[count++] = (struct iovec){zeros + done, requestPayload - done};
        at += requestPayload - done;
      }
    }
    struct msghdr msg = {.msg_iov = parts, .msg_iovlen = (size_t)count};
    ssize_t sent = sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EAGAIN) return false;
    if (sent < 0) failed("Cannot send requests: %s", strerror(errno));
    octetsSent += (uint64_t)sent;
  }
  return true;
}

static void checkHeader(const uint8_t *header, double at) {
  uint32_t seqnum = options.echo ? echoSeqnum++ : get32(header + 4);
  uint32_t slot = seqnum % (4 * DEPTH_MAX);
  if (inFlight[slot].seqnum != seqnum || seqnum == 0) {
    failed("Reply %llu has seqnum %u, which is not in flight", (unsigned long long)answered, seqnum);
  }
  if (!options.echo) {
    uint32_t command = get32(header), actual = get32(header + 24);
    uint32_t wanted = options.kind == CONTROL ? DESCRIPTOR_OCTETS : options.size;
    int32_t status = (int32_t)get32(header + 20);
    if (command != RET_SUBMIT) failed("Reply to URB %u is command %u, wanted 3", seqnum, command);
    if (status != 0) failed("URB %u ended with status %d", seqnum, status);
    if (actual != wanted) failed("URB %u has actual_length %u, wanted %u", seqnum, actual, wanted);
  }
  inFlight[slot].seqnum = 0;
  if (measuring && sampleCount < SAMPLES_MAX) {
    samples[sampleCount++] = (float)((at - inFlight[slot].issuedAt) * 1e6);
  }
}

/* Takes what was read apart; messages may be split anywhere. */
static void takeReplies(const uint8_t *octets, size_t length, double at) {
  static uint8_t partHeader[HEADER_OCTETS];
  static size_t taken; /* octets of the reply under way, header and payload */
  const uint8_t *wanted = options.kind == CONTROL && !options.echo ? descriptor : zeros;
  while (length > 0) {
    if (taken < HEADER_OCTETS) {
      size_t some = HEADER_OCTETS - taken < length ? HEADER_OCTETS - taken : length;
      const uint8_t *header = octets;
      if (some < HEADER_OCTETS) {
        memcpy(partHeader + taken, octets, some);
        header = partHeader;
      }
      taken += some;
      octets += some;
      length -= some;
      if (taken < HEADER_OCTETS) return;
      checkHeader(header, at);
    }
    size_t done = taken - HEADER_OCTETS;
    size_t some = replyPayload - done < length ? replyPayload - done : length;
    if (memcmp(octets, wanted + done, some) != 0) {
      failed("Reply %llu has wrong data between octets %zu and %zu", (unsigned long long)answered,
             done, done + some);
    }
    taken += some;
    octets += some;
    length -= some;
    if (taken == HEADER_OCTETS + replyPayload) {
      taken = 0;
      answered++;
      urbsDone = answered;
    }
  }
}

/* Sleeps until replies are there (and meanwhile sends, if the send buffer was full). */
static double receiveSome(uint8_t *buffer) {
  while (!sendPending()) {
    struct pollfd entry = {.fd = fd, .events = POLLIN | POLLOUT};
    int ready = poll(&entry, 1, REPLY_TIMEOUT_SECONDS * 1000);
    if (ready == 0) failed("No reply and no room to send for %d s", REPLY_TIMEOUT_SECONDS);
    if ((entry.revents & POLLIN) != 0) break;
  }
  ssize_t got = recv(fd, buffer, READ_OCTETS, 0);
  if (got == 0) failed("The server closed the connection after %llu URBs", (unsigned long long)answered);
  if (got < 0) {
    failed("No reply after %llu URBs: %s", (unsigned long long)answered, strerror(errno));
  }
  double at = now();
  takeReplies(buffer, (size_t)got, at);
  return at;
}

struct phase { uint64_t urbs; double seconds, cpu, serverCpu, machineCpu; };

/* Keeps `depth` URBs in flight until `seconds` are over or `urbs` (if not 0) are done, then drains. */
static struct phase runPhase(uint8_t *buffer, double seconds, uint64_t urbs) {
  double cpu = ownCpuSeconds(), serverCpu = serverCpuSeconds(), machineCpu = machineCpuSeconds();
  double start = now(), at = start;
  uint64_t before = answered, limit = urbs == 0 ? UINT64_MAX : issued + urbs;
  for (;;) {
    bool open = urbs != 0 || at - start < seconds;
    while (open && issued < limit && issued - answered < options.depth) issue(at);
    if (issued == answered) break;
    at = receiveSome(buffer);
  }
  struct phase result = {answered - before, at - start, ownCpuSeconds() - cpu, -1, -1};
  if (serverCpu >= 0) result.serverCpu = serverCpuSeconds() - serverCpu;
  if (machineCpu >= 0) result.machineCpu = machineCpuSeconds() - machineCpu;
  return result;
}

static int compareFloats(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

static void report(const struct phase *phase) {
  double rate = phase->seconds > 0 ? (double)phase->urbs / phase->seconds : 0;
  uint32_t octets = options.kind == CONTROL ? DESCRIPTOR_OCTETS : options.size;
  qsort(samples, sampleCount, sizeof *samples, compareFloats);
  double p50 = sampleCount > 0 ? samples[sampleCount / 2] : 0;
  double p99 = sampleCount > 0 ? samples[sampleCount * 99 / 100] : 0;
  printf("{\"urbs\":%llu,\"seconds\":%.6f,\"urbsPerSecond\":%.1f,\"octetsPerSecond\":%.0f,"
         "\"depth\":%u,\"roundTripMicrosecondsP50\":%.1f,\"roundTripMicrosecondsP99\":%.1f,"
         "\"ownCpuSeconds\":%.6f,",
         (unsigned long long)phase->urbs, phase->seconds, rate, rate * octets, options.depth, p50, p99,
         phase->cpu);
  if (phase->serverCpu >= 0) printf("\"serverCpuSeconds\":%.2f,", phase->serverCpu);
  if (phase->machineCpu >= 0) printf("\"machineCpuSeconds\":%.2f,", phase->machineCpu);
  printf("\"errors\":0}\n");
  fflush(stdout);
}

/* ---- options ---- */

static const char usage[] =
    "usbip-load [--host H] [--port P] [--busid B] [--type control|in|out] [--size OCTETS] [--depth D]\n"
    "           [--seconds S | --urbs N] [--warmup S] [--single] [--ep-in N] [--ep-out N]\n"
    "           [--set-interface I[,ALTERNATE]] [--server-pid PID] [--echo] [--hold]\n"
    "           [--fd DESCRIPTOR --devid ID]\n"
    "--hold: attach, report, then stay attached and idle until standard input ends\n";

static uint32_t number(const char *text, const char *name, uint32_t min, uint32_t max) {
  char *end;
  unsigned long long value = strtoull(text, &end, 0);
  if (*text == 0 || *end != 0 || value < min || value > max) {
    fprintf(stderr, "Cannot use --%s %s: wanted %u to %u\n", name, text, min, max);
    exit(2);
  }
  return (uint32_t)value;
}

static void parseOptions(int argc, char **argv) {
  enum { HOST, PORT, BUSID, TYPE, SIZE, DEPTH, SECONDS, URBS, WARMUP, SINGLE, EP_IN, EP_OUT, INTERFACE, PID, ECHO_, HOLD, FD, DEVID, HELP };
  static const struct option names[] = {
      {"host", 1, 0, HOST}, {"port", 1, 0, PORT}, {"busid", 1, 0, BUSID}, {"type", 1, 0, TYPE},
      {"size", 1, 0, SIZE}, {"depth", 1, 0, DEPTH}, {"seconds", 1, 0, SECONDS}, {"urbs", 1, 0, URBS},
      {"warmup", 1, 0, WARMUP}, {"single", 0, 0, SINGLE}, {"ep-in", 1, 0, EP_IN},
      {"ep-out", 1, 0, EP_OUT}, {"set-interface", 1, 0, INTERFACE}, {"server-pid", 1, 0, PID},
      {"echo", 0, 0, ECHO_}, {"hold", 0, 0, HOLD}, {"fd", 1, 0, FD},
      {"devid", 1, 0, DEVID}, {"help", 0, 0, HELP}, {0}};
  for (;;) {
    int index = 0, which = getopt_long(argc, argv, "", names, &index);
    if (which == -1) break;
    const char *name = names[index].name;
    switch (which) {
      case HOST: options.host = optarg; break;
      case PORT: options.port = optarg; break;
      case BUSID: options.busid = optarg; break;
      case TYPE:
        if (strcmp(optarg, "control") == 0) options.kind = CONTROL;
        else if (strcmp(optarg, "out") == 0) options.kind = BULK_OUT;
        else if (strcmp(optarg, "in") == 0) options.kind = BULK_IN;
        else { fprintf(stderr, "Cannot use --type %s: wanted control, in or out\n", optarg); exit(2); }
        break;
      case SIZE: options.size = number(optarg, name, 0, SIZE_MAX_OCTETS); break;
      case DEPTH: options.depth = number(optarg, name, 1, DEPTH_MAX); break;
      case SECONDS: options.seconds = atof(optarg); break;
      case URBS: options.urbs = number(optarg, name, 1, UINT32_MAX - 1024); break;
      case WARMUP: options.warmup = atof(optarg); break;
      case SINGLE: options.single = true; break;
      case EP_IN: options.epIn = number(optarg, name, 1, 15); break;
      case EP_OUT: options.epOut = number(optarg, name, 1, 15); break;
      case INTERFACE:
        if (sscanf(optarg, "%d,%d", &options.interface, &options.alternate) < 1) exit(2);
        break;
      case PID: options.serverPid = (long)number(optarg, name, 1, INT32_MAX); break;
      case ECHO_: options.echo = true; break;
      case HOLD: options.hold = true; break;
      case FD: options.fd = (int)number(optarg, name, 3, 1023); break;
      case DEVID: devid = number(optarg, name, 0, UINT32_MAX); break;
      default: fputs(usage, stderr); exit(which == HELP ? 0 : 2);
    }
  }
}

int main(int argc, char **argv) {
  parseOptions(argc, argv);
  size_t zeroOctets = options.size > DESCRIPTOR_OCTETS ? options.size : DESCRIPTOR_OCTETS;
  zeros = malloc(zeroOctets);
  samples = malloc(SAMPLES_MAX * sizeof *samples);
  uint8_t *buffer = malloc(READ_OCTETS);
  if (zeros == NULL || samples == NULL || buffer == NULL) failed("Cannot allocate buffers");
  explicit_bzero(zeros, zeroOctets); /* not calloc: its pages would all be the one zero page */
  if (options.fd >= 0) fd = options.fd;
  else connectToServer();
  if (!options.echo) attachDevice();
  prepareRun();
  if (options.echo) {
    uint8_t sizes[8];
    put32(sizes, HEADER_OCTETS + requestPayload);
    put32(sizes + 4, HEADER_OCTETS + replyPayload);
    sendAll(sizes, sizeof sizes);
  }
  struct phase phase = {.serverCpu = -1, .machineCpu = -1};
  if (!options.hold) {
    if (options.warmup > 0) runPhase(buffer, options.warmup, 0);
    measuring = true;
    phase = runPhase(buffer, options.seconds, options.urbs);
  }
  report(&phase);
  uint8_t nothing;
  while (options.hold && read(STDIN_FILENO, &nothing, 1) > 0) continue;
  return 0;
}
