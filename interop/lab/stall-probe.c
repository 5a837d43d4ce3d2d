/*
 * Does an endpoint's queue stop when a transfer fails, until the driver's handlers have run?
 *
 * In each round it submits many URBs to one endpoint, of which the first is to fail, and waits for
 * all of them. By `unlink` the rest is taken back or not:
 *
 *   continuation  the kernel unlinks the rest inside the completion handler of the failed one
 *                 (USBDEVFS_URB_BULK_CONTINUATION): what the guarantee is about
 *   discard       this program does, newest first, when it has got the failed one
 *   none          nobody does; the others go on, in order
 *   first         the first is taken back right after the last was submitted; the others go on
 *   all           all are taken back then, oldest first
 *
 *   restart       a second thread takes all back, oldest first, again and again, while this one submits
 *                 each anew as soon as it is back, as programs and drivers do that stop and start
 *                 in one go. A round is one time that all are taken back
 *
 * The last three are too late where all that they want has come back by itself ("missed" rounds).
 *
 * Counted are URBs behind the failed one that moved data ("violations"), rounds that do not end
 * ("hangs"), and, if the device stamps its packets (urbgate's virtual:source-sink with `stamp`, see
 * src/core/devices/virtual/source-sink/kind.ts), packets that the device sent and nobody got
 * ("lost") or that came twice or out of order ("duplicated"). Lost stamps are the evidence that
 * cannot lie: vhci reports 0 octets for many an unlinked URB whose data the device has moved.
 *
 *   stall-probe NODE [name=value ...]     see `settings` below for names and defaults
 *
 * It prints a line of JSON each second with the counts so far, and one at its end ("done": 1). A
 * hang ends it. Exit code 0 means that it could measure, not that all is well; 3 that the device went
 * away under it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/usbdevice_fs.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define DEPTH_MAX 64
#define OCTETS_MAX (1 << 16)
#define ROUNDS_MAX (1 << 20)
#define ERRNO_MAX 256
#define WAIT_MILLISECONDS 100
#define REQUEST_COUNTERS 0x5d

static struct {
  long endpoint;    /* address */
  long interrupt;   /* 1: an interrupt endpoint, else bulk */
  long alternate;   /* setting of interface 0, -1: as it is */
  long depth;       /* URBs in a round */
  long octets;      /* of a URB */
  long packet;      /* wMaxPacketSize, for stamps */
  long rounds;
  long seconds;     /* no new round after so long; 0: no limit */
  long limit;       /* a round without progress for so many milliseconds hangs */
  long stamps;      /* 1: the device counts and stamps packets */
  long short_ok;    /* 1: a short transfer is no error */
  long clear;       /* 1: clear the halt after a stall; with unlink=none at once, else after a round */
  long beside;      /* a second endpoint, OUT: it must work while this one is held (unlink=discard) */
} set = {.endpoint = 0x81, .alternate = -1, .depth = 8, .octets = 4096, .packet = 512,
         .rounds = 100, .limit = 30000};
static const char *unlink_by = "continuation";

static const struct {
  const char *name;
  long *value;
} settings[] = {
    {"endpoint", &set.endpoint}, {"interrupt", &set.interrupt}, {"alternate", &set.alternate},
    {"depth", &set.depth},       {"octets", &set.octets},       {"packet", &set.packet},
    {"rounds", &set.rounds},     {"seconds", &set.seconds},     {"limit", &set.limit},
    {"stamps", &set.stamps},     {"short-ok", &set.short_ok},   {"clear", &set.clear},
    {"beside", &set.beside},
};

static struct slot {
  struct usbdevfs_urb urb;
  int out; /* submitted and not reaped */
  unsigned char data[OCTETS_MAX];
} slots[DEPTH_MAX], beside[DEPTH_MAX];

static struct {
  long rounds, submitted, refused, missed, failed, violations, violation_octets, hangs;
  long lost, duplicated, seen; /* IN packets by their stamps */
  long sent;                   /* OUT packets that were reported as moved */
  long besides;                /* URBs of the second endpoint */
  double beside_worst;         /* milliseconds */
  long statuses[ERRNO_MAX];
} count;

static int node;
static uint32_t next_stamp; /* of the next packet, IN as OUT */
static int stamped_before;
static uint32_t counters_before[3];
static double *times, *first_times; /* a round each, milliseconds */
static double started, printed;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e3 + time.tv_nsec / 1e6;
}

static void print_counts(int done);

static void die(const char *what) {
  fprintf(stderr, "stall-probe: %s: %s\n", what, strerror(errno));
  if (errno != ENODEV) exit(1);
  print_counts(0);
  exit(3);
}

static int by(const char *name) { return strcmp(unlink_by, name) == 0; }

static int is_in(void) { return (set.endpoint & 0x80) != 0; }

static void read_counters(uint32_t counters[3]) {
  unsigned char answer[12];
  struct usbdevfs_ctrltransfer transfer = {.bRequestType = 0xc0,
                                           .bRequest = REQUEST_COUNTERS,
                                           .wLength = sizeof answer,
                                           .timeout = 10000,
                                           .data = answer};
  if (ioctl(node, USBDEVFS_CONTROL, &transfer) != sizeof answer) die("Cannot read the counters");
  memcpy(counters, answer, sizeof answer); /* both are little-endian */
}

static int compare(const void *one, const void *other) {
  double a = *(const double *)one, b = *(const double *)other;
  return (a > b) - (a < b);
}

/* Sorts, and prints "name":[mean, median, 99th percentile, worst]. */
static void print_times(const char *name, double *list, long length) {
  double sum = 0;
  for (long i = 0; i < length; i++) sum += list[i];
  qsort(list, (size_t)length, sizeof *list, compare);
  if (length == 0) return;
  printf(",\"%s\":[%.2f,%.2f,%.2f,%.2f]", name, sum / (double)length, list[length / 2],
         list[length * 99 / 100], list[length - 1]);
}

static void print_counts(int done) {
  printf("{\"done\":%d,\"rounds\":%ld,\"submitted\":%ld,\"refused\":%ld,\"missed\":%ld,\"failed\":%ld,"
         "\"violations\":%ld,\"violationOctets\":%ld,\"lost\":%ld,\"duplicated\":%ld,"
         "\"seen\":%ld,\"sent\":%ld,\"hangs\":%ld,\"besides\":%ld,\"besideWorst\":%.1f,"
         "\"seconds\":%.3f,\"statuses\":{",
         done, count.rounds, count.submitted, count.refused, count.missed, count.failed,
         count.violations, count.violation_octets, count.lost, count.duplicated, count.seen, count.sent,
         count.hangs, count.besides, count.beside_worst, (now() - started) / 1e3);
  const char *separator = "";
  for (int number = 0; number < ERRNO_MAX; number++) {
    if (count.statuses[number] == 0) continue;
    printf("%s\"%d\":%ld", separator, -number, count.statuses[number]);
    separator = ",";
  }
  printf("}");
  if (done) {
    print_times("roundMilliseconds", times, count.rounds);
    print_times("firstMilliseconds", first_times, count.rounds);
  }
  printf("}\n");
  fflush(stdout);
  printed = now();
}

/* Prints what is known and ends: the kernel may never let go of the URBs. */
static void hang(void) {
  count.hangs++;
  print_counts(0);
  _exit(0);
}

/*
 * Returns the slot of a URB that has come back, or NULL if none does in time. Time is counted in
 * short waits, as the clock of an emulated machine may jump when its host is busy.
 */
static struct slot *reap(void) {
  for (long waited = 0;;) {
    struct usbdevfs_urb *urb = NULL;
    if (ioctl(node, USBDEVFS_REAPURBNDELAY, &urb) == 0) {
      struct slot *slot = urb->usercontext;
      slot->out = 0;
      return slot;
    }
    if (errno != EAGAIN) die("Cannot reap a URB");
    if (waited >= set.limit) return NULL;
    struct pollfd ready = {node, POLLOUT, 0};
    if (poll(&ready, 1, WAIT_MILLISECONDS) == 0) waited += WAIT_MILLISECONDS;
  }
}

/* Returns 0 if usbfs has refused it because the one before it has failed already. */
static int submit(struct slot *slot, long endpoint, int continued) {
  struct usbdevfs_urb *urb = &slot->urb;
  memset(urb, 0, sizeof *urb);
  urb->type = set.interrupt ? USBDEVFS_URB_TYPE_INTERRUPT : USBDEVFS_URB_TYPE_BULK;
  if (endpoint != set.endpoint) urb->type = USBDEVFS_URB_TYPE_BULK;
  urb->endpoint = (unsigned char)endpoint;
  if ((endpoint & 0x80) && !set.short_ok) urb->flags |= USBDEVFS_URB_SHORT_NOT_OK;
  if (continued) urb->flags |= USBDEVFS_URB_BULK_CONTINUATION;
  urb->buffer = slot->data;
  urb->buffer_length = (int)set.octets;
  urb->usercontext = slot;
  if (ioctl(node, USBDEVFS_SUBMITURB, urb) < 0) {
    if (continued && errno == EREMOTEIO) {
      count.refused++;
      return 0;
    }
    die("Cannot submit a URB");
  }
  slot->out = 1;
  count.submitted++;
  return 1;
}

/* Returns 0 if it has come back by itself before; the kernel says EINVAL then. */
static int discard(struct slot *slot) {
  if (!slot->out) return 0;
  if (ioctl(node, USBDEVFS_DISCARDURB, &slot->urb) == 0) return 1;
  if (errno != EINVAL) die("Cannot take back a URB");
  return 0;
}

static void discard_newest_first(long submitted) {
  for (long i = submitted - 1; i >= 0; i--) discard(&slots[i]);
}

static void clear_halt(void) {
  unsigned endpoint = (unsigned)set.endpoint;
  if (ioctl(node, USBDEVFS_CLEAR_HALT, &endpoint) < 0) die("Cannot clear the halt");
}

static long packets(long octets) { return (octets + set.packet - 1) / set.packet; }

/* Fills a buffer with zeros and, at the start of each packet, its number. Returns the next one. */
static uint32_t fill(struct slot *slot, uint32_t number) {
  memset(slot->data, 0, (size_t)set.octets);
  for (long at = 0; at + 4 <= set.octets; at += set.packet, number++)
    memcpy(slot->data + at, &number, sizeof number);
  return number;
}

static void check_stamps(const struct slot *slot) {
  for (long at = 0; at + 4 <= slot->urb.actual_length; at += set.packet) {
    uint32_t stamp;
    memcpy(&stamp, slot->data + at, sizeof stamp);
    if (!stamped_before) next_stamp = stamp;
    stamped_before = 1;
    count.seen++;
    if (stamp < next_stamp) {
      count.duplicated++;
    } else {
      count.lost += stamp - next_stamp;
      next_stamp = stamp + 1;
    }
  }
}

/* The second endpoint has to get its work done while the first one is held. */
static void work_beside(struct slot **early, long *early_count) {
  static uint32_t stamp;
  double begun = now();
  for (long i = 0; i < set.depth; i++) {
    stamp = fill(&beside[i], stamp);
    submit(&beside[i], set.beside, 0);
  }
  for (long back = 0; back < set.depth;) {
    struct slot *slot = reap();
    if (slot == NULL) hang();
    if (slot < beside || slot >= beside + DEPTH_MAX) {
      early[(*early_count)++] = slot; /* the first endpoint's: not held long enough, or not at all */
      continue;
    }
    back++;
    if (slot->urb.status != 0 || slot->urb.actual_length != set.octets) {
      fprintf(stderr, "stall-probe: the second endpoint: status %d, %d octets\n", slot->urb.status,
              slot->urb.actual_length);
      exit(1);
    }
    count.sent += packets(slot->urb.actual_length);
    count.besides++;
  }
  double taken = now() - begun;
  if (taken > count.beside_worst) count.beside_worst = taken;
}

/* Returns whether one has failed, or was taken back. */
static int judge(long submitted) {
  int failed = 0;
  for (long i = 0; i < submitted; i++) {
    const struct usbdevfs_urb *urb = &slots[i].urb;
    int number = urb->status < 0 ? -urb->status : 0;
    count.statuses[number < ERRNO_MAX ? number : 0]++;
    if (failed && urb->actual_length > 0 && (by("continuation") || by("discard"))) {
      count.violations++;
      count.violation_octets += urb->actual_length;
    }
    if (urb->status != 0) {
      if (!failed) count.failed++;
      failed = 1;
    }
    if (is_in()) {
      if (set.stamps) check_stamps(&slots[i]);
    } else {
      count.sent += packets(urb->actual_length);
      next_stamp += (uint32_t)packets(urb->actual_length);
    }
  }
  return failed;
}

static void run_round(void) {
  static struct slot *early[DEPTH_MAX];
  long early_count = 0, submitted = 0, back = 0;
  int failed = 0, stalled = 0;
  double begun = now(), first = 0;
  for (long i = 0; i < set.depth; i++) {
    if (is_in()) memset(slots[i].data, 0xff, (size_t)set.octets);
    else fill(&slots[i], next_stamp + (uint32_t)(i * packets(set.octets)));
    if (!submit(&slots[i], set.endpoint, i > 0 && by("continuation"))) break;
    submitted++;
  }
  if (by("first") || by("all")) {
    long wanted = by("first") ? 1 : submitted;
    for (long i = 0; i < wanted; i++) discard(&slots[i]);
  }
  while (back < submitted) {
    struct slot *slot = early_count > 0 ? early[--early_count] : reap();
    if (slot == NULL) hang();
    if (back++ == 0) first = now();
    if (slot->urb.status == -EPIPE) {
      stalled = 1;
      if (set.clear && by("none")) clear_halt();
    }
    if (slot->urb.status == 0 || failed) continue;
    failed = 1;
    if (set.beside) work_beside(early, &early_count);
    if (by("discard")) discard_newest_first(submitted);
  }
  if (stalled && set.clear && !by("none")) clear_halt();
  /* The answer with its data may be on its way when the kernel takes the unlink. */
  if (!judge(submitted) && (by("first") || by("all"))) count.missed++;
  first_times[count.rounds] = first - begun;
  times[count.rounds] = now() - begun;
  count.rounds++;
}

static volatile int restarting;

/* Takes all back, oldest first, at moments that drift against those of the data. */
static void *taker(void *unused) {
  struct timespec pause = {0, 0};
  (void)unused;
  while (count.rounds < set.rounds) {
    long taken = 0;
    for (long i = 0; i < set.depth; i++) taken += discard(&slots[(count.rounds + i) % set.depth]);
    if (taken == 0) count.missed++;
    else count.failed++;
    count.rounds++;
    pause.tv_nsec = (1 + count.rounds % 20) * 1000000;
    nanosleep(&pause, NULL);
  }
  restarting = 0;
  return NULL;
}

static void run_restarts(void) {
  pthread_t thread;
  long out = 0;
  restarting = 1;
  for (; out < set.depth; out++) submit(&slots[out], set.endpoint, 0);
  if (pthread_create(&thread, NULL, taker, NULL) != 0) die("Cannot start a thread");
  while (out > 0) {
    struct slot *slot = reap();
    if (slot == NULL) hang();
    int number = slot->urb.status < 0 ? -slot->urb.status : 0;
    count.statuses[number < ERRNO_MAX ? number : 0]++;
    check_stamps(slot);
    if (restarting) submit(slot, set.endpoint, 0);
    else out--;
    if (now() - printed > 1000) print_counts(0);
  }
  pthread_join(thread, NULL);
}

static void parse(const char *argument) {
  const char *value = strchr(argument, '=');
  if (value != NULL) {
    size_t octets = (size_t)(value++ - argument);
    if (octets == 6 && strncmp(argument, "unlink", octets) == 0) {
      unlink_by = value;
      return;
    }
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
      if (strlen(settings[i].name) != octets || strncmp(argument, settings[i].name, octets)) continue;
      *settings[i].value = strtol(value, NULL, 0);
      return;
    }
  }
  fprintf(stderr, "stall-probe: unknown setting %s\n", argument);
  exit(2);
}

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  for (int i = 2; i < argc; i++) parse(argv[i]);
  if (set.depth > DEPTH_MAX || set.octets > OCTETS_MAX || set.rounds > ROUNDS_MAX) return 2;
  times = calloc((size_t)set.rounds, sizeof *times);
  first_times = calloc((size_t)set.rounds, sizeof *first_times);
  node = open(argv[1], O_RDWR | O_CLOEXEC);
  if (node < 0) die(argv[1]);
  struct usbdevfs_disconnect_claim claim = {.interface = 0};
  if (ioctl(node, USBDEVFS_DISCONNECT_CLAIM, &claim) < 0) die("Cannot claim interface 0");
  struct usbdevfs_setinterface setting = {.interface = 0, .altsetting = (unsigned)set.alternate};
  if (set.alternate >= 0 && ioctl(node, USBDEVFS_SETINTERFACE, &setting) < 0)
    die("Cannot choose the alternate setting");
  if (set.stamps) read_counters(counters_before);

  started = printed = now();
  if (by("restart")) run_restarts();
  while (count.rounds < set.rounds) {
    run_round();
    if (now() - printed > 1000) print_counts(0);
    if (set.seconds > 0 && now() - started > (double)set.seconds * 1e3) break;
  }
  if (set.stamps) {
    uint32_t counters[3];
    read_counters(counters);
    long in = (uint32_t)(counters[0] - counters_before[0]);
    long out = (uint32_t)(counters[1] - counters_before[1]);
    long gaps = (uint32_t)(counters[2] - counters_before[2]);
    count.lost += in - count.seen - count.lost; /* also those before the first seen, and at the end */
    count.lost += labs(out - count.sent);
    count.duplicated += gaps;
  }
  print_counts(1);
  return 0;
}
