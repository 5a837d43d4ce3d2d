/*
 * Loads a disk, or a device's control endpoint, for a while, one operation after the other, past the
 * page cache, and prints how it went.
 *
 *   device-load read|write|random FILE OCTETS SECONDS    operations of OCTETS; random ones are reads
 *   device-load control NODE OCTETS SECONDS              GET_DESCRIPTOR of the device, OCTETS at most
 *
 * Prints {"operations":N,"seconds":S,"p50Microseconds":P}. Ends with 1 if an operation fails or moves
 * less than it should.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/usbdevice_fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { SAMPLES_MAX = 1 << 20, ALIGNMENT = 4096, TIMEOUT_MILLISECONDS = 5000 };

static uint32_t samples[SAMPLES_MAX];

static uint64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int ascending(const void *one, const void *other) {
  uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
  return (a > b) - (a < b);
}

/* The same places on each run: both servers are to be asked for the same. */
static uint64_t random_number(void) {
  static uint64_t state = 0x9e3779b97f4a7c15u;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return state;
}

static long operate(const char *what, int fd, unsigned char *octets, size_t size, off_t at) {
  if (strcmp(what, "control") == 0) {
    struct usbdevfs_ctrltransfer transfer = {.bRequestType = 0x80,
                                             .bRequest = 6,
                                             .wValue = 0x0100,
                                             .wLength = (uint16_t)size,
                                             .timeout = TIMEOUT_MILLISECONDS,
                                             .data = octets};
    return ioctl(fd, USBDEVFS_CONTROL, &transfer);
  }
  if (strcmp(what, "write") == 0) return pwrite(fd, octets, size, at);
  return pread(fd, octets, size, at);
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  const char *what = argv[1];
  int is_control = strcmp(what, "control") == 0, is_random = strcmp(what, "random") == 0;
  size_t size = strtoul(argv[3], NULL, 0);
  double wanted = atof(argv[4]);
  int writes = is_control || strcmp(what, "write") == 0; /* for usbfs, a control transfer is one */
  int fd = open(argv[2], (is_control ? 0 : O_DIRECT) | (writes ? O_RDWR : O_RDONLY) | O_CLOEXEC);
  void *octets;
  if (fd < 0 || posix_memalign(&octets, ALIGNMENT, size) != 0) {
    perror(argv[2]);
    return 1;
  }
  memset(octets, 0x5a, size);
  off_t length = is_control ? (off_t)size : lseek(fd, 0, SEEK_END);
  uint64_t places = (uint64_t)length / size, count = 0;
  if (places == 0) {
    fprintf(stderr, "Cannot load %s: it has %lld octets, %zu are wanted\n", argv[2],
            (long long)length, size);
    return 1;
  }
  uint64_t start = nanoseconds(), last = start;
  while ((double)(last - start) < wanted * 1e9) {
    uint64_t place = (is_random ? random_number() : count) % places;
    long moved = operate(what, fd, octets, size, is_control ? 0 : (off_t)(place * size));
    if (moved != (long)size) {
      fprintf(stderr, "Cannot %s %s: %ld octets moved, %zu are wanted\n", what, argv[2], moved,
              size);
      return 1;
    }
    uint64_t now = nanoseconds();
    if (count < SAMPLES_MAX) samples[count] = (uint32_t)((now - last) / 100);
    last = now;
    count++;
  }
  size_t sampled = count < SAMPLES_MAX ? count : SAMPLES_MAX;
  qsort(samples, sampled, sizeof samples[0], ascending);
  printf("{\"operations\":%llu,\"seconds\":%.6f,\"p50Microseconds\":%.1f}\n",
         (unsigned long long)count, (double)(last - start) / 1e9, samples[sampled / 2] / 10.0);
  return 0;
}
