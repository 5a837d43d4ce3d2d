/*
 * Prints what an input device says, a line for each event: "type code value", all decimal.
 *
 *   input-events NAME    waits until there is an event device whose name is NAME
 *
 * It prints "ready PATH" when it listens, and keeps the device for itself (EVIOCGRAB), so that
 * nothing that is typed reaches the guest's console. It ends when the device goes, with 0.
 *
 * The kernel keeps 64 events for a reader and then drops them (SYN_DROPPED), so this one takes
 * precedence over other processes, and leaves out events of scan codes (EV_MSC).
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <linux/input.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int open_named(const char *wanted, const char *path) {
  char name[256] = "";
  int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return -1;
  if (ioctl(file, EVIOCGNAME(sizeof name - 1), name) >= 0 && strcmp(name, wanted) == 0) return file;
  close(file);
  return -1;
}

static void prepare(int file) {
  static const unsigned char none[64];
  struct input_mask mask = {.type = EV_MSC, .codes_size = sizeof none};
  mask.codes_ptr = (uint64_t)(uintptr_t)none;
  struct sched_param first = {.sched_priority = 1};
  if (ioctl(file, EVIOCGRAB, 1) < 0) perror("Cannot grab the device");
  if (ioctl(file, EVIOCSMASK, &mask) < 0) perror("Cannot leave out scan codes");
  if (sched_setscheduler(0, SCHED_FIFO, &first) < 0) perror("Cannot take precedence");
}

static int wait_for(const char *wanted) {
  for (;;) {
    glob_t found;
    if (glob("/dev/input/event*", 0, NULL, &found) == 0) {
      for (size_t at = 0; at < found.gl_pathc; at++) {
        int file = open_named(wanted, found.gl_pathv[at]);
        if (file < 0) continue;
        prepare(file);
        printf("ready %s\n", found.gl_pathv[at]);
        fflush(stdout);
        return file;
      }
      globfree(&found);
    }
    usleep(5000);
  }
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  int file = wait_for(argv[1]);
  struct input_event events[64];
  for (;;) {
    ssize_t octets = read(file, events, sizeof events);
    if (octets < 0 && errno == EINTR) continue;
    if (octets < 0 && errno == ENODEV) return 0;
    if (octets <= 0) {
      perror("Cannot read events");
      return 1;
    }
    for (size_t at = 0; at < (size_t)octets / sizeof *events; at++)
      printf("%u %u %d\n", events[at].type, events[at].code, events[at].value);
    fflush(stdout);
  }
}
