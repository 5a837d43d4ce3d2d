/*
 * A control transfer from the device, past its driver: prints what it answers, in hexadecimal.
 *
 *   control-in NODE REQUEST-TYPE REQUEST VALUE INDEX LENGTH
 *
 * The kernel lets it ask an interface only while no driver holds that.
 */
#include <fcntl.h>
#include <linux/usbdevice_fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

int main(int argc, char **argv) {
  static unsigned char answer[4096];
  if (argc != 7) return 2;
  unsigned long word[7];
  for (int at = 2; at < argc; at++) word[at] = strtoul(argv[at], NULL, 0);
  if (word[6] > sizeof answer) return 2;
  struct usbdevfs_ctrltransfer transfer = {.bRequestType = (unsigned char)word[2],
                                           .bRequest = (unsigned char)word[3],
                                           .wValue = (unsigned short)word[4],
                                           .wIndex = (unsigned short)word[5],
                                           .wLength = (unsigned short)word[6],
                                           .timeout = 20000,
                                           .data = answer};
  int node = open(argv[1], O_RDWR | O_CLOEXEC);
  int octets = node < 0 ? -1 : ioctl(node, USBDEVFS_CONTROL, &transfer);
  if (octets < 0) {
    perror(argv[1]);
    return 1;
  }
  for (int at = 0; at < octets; at++) printf("%02x", answer[at]);
  printf("\n");
  return 0;
}
