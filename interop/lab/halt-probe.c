/*
 * What becomes of a queue of reads when the endpoint is halted, on any device with a bulk source.
 *
 *   halt-probe NODE ENDPOINT DEPTH ROUNDS
 *
 * In each round the endpoint is halted (SET_FEATURE), DEPTH reads are submitted, and when the first one
 * comes back the others are unlinked, newest first, as a driver does from its handler. None of them
 * may have moved data. Then the halt is cleared and one read must bring all that it asks for.
 *
 * It prints a line of JSON: rounds, stalls (first reads that ended so), violations (others that moved
 * data), lost (reads after the clear that failed), and how many others ended with which errno.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/usbdevice_fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { DEPTH_MAX = 32, OCTETS = 4096, ERRNOS = 200 };

static struct usbdevfs_urb urbs[DEPTH_MAX];
static unsigned char data[DEPTH_MAX][OCTETS];

static void die(const char *what) {
  perror(what);
  exit(1);
}

static void submit(int file, int index, unsigned endpoint) {
  struct usbdevfs_urb *urb = &urbs[index];
  memset(urb, 0, sizeof *urb);
  urb->type = USBDEVFS_URB_TYPE_BULK;
  urb->endpoint = endpoint;
  urb->buffer = data[index];
  urb->buffer_length = OCTETS;
  if (ioctl(file, USBDEVFS_SUBMITURB, urb) < 0) die("submit");
}

static struct usbdevfs_urb *reap(int file) {
  struct usbdevfs_urb *urb;
  if (ioctl(file, USBDEVFS_REAPURB, &urb) < 0) die("reap");
  return urb;
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  unsigned endpoint = strtoul(argv[2], NULL, 16);
  int depth = atoi(argv[3]), rounds = atoi(argv[4]), interface = 0;
  int stalls = 0, violations = 0, lost = 0, ends[ERRNOS] = {0};
  int file = open(argv[1], O_RDWR);
  if (file < 0 || depth < 1 || depth > DEPTH_MAX) die(argv[1]);
  if (ioctl(file, USBDEVFS_CLAIMINTERFACE, &interface) < 0) die("claim");
  for (int round = 0; round < rounds; round++) {
    struct usbdevfs_ctrltransfer halt = {0x02, 3, 0, endpoint, 0, 5000, NULL};
    if (ioctl(file, USBDEVFS_CONTROL, &halt) < 0) die("halt");
    for (int n = 0; n < depth; n++) submit(file, n, endpoint);
    struct usbdevfs_urb *first = reap(file);
    if (first == &urbs[0] && first->status == -EPIPE && first->actual_length == 0) stalls++;
    for (int n = depth - 1; n >= 0; n--)
      if (&urbs[n] != first) ioctl(file, USBDEVFS_DISCARDURB, &urbs[n]);
    for (int n = 1; n < depth; n++) {
      struct usbdevfs_urb *other = reap(file);
      if (other->actual_length > 0) violations++;
      if (-other->status >= 0 && -other->status < ERRNOS) ends[-other->status]++;
    }
    if (ioctl(file, USBDEVFS_CLEAR_HALT, &endpoint) < 0) die("clear");
    submit(file, 0, endpoint);
    first = reap(file);
    if (first->status != 0 || first->actual_length != OCTETS) lost++;
  }
  printf("{\"rounds\":%d,\"stalls\":%d,\"violations\":%d,\"lost\":%d,\"ends\":{", rounds, stalls,
         violations, lost);
  const char *comma = "";
  for (int n = 0; n < ERRNOS; n++)
    if (ends[n] > 0) {
      printf("%s\"%d\":%d", comma, n, ends[n]);
      comma = ",";
    }
  puts("}}");
  return 0;
}
