/*
 * A USB device with one bulk IN endpoint (81) whose packets bear running numbers: a gadget of our
 * own on FunctionFS, for probes of what a gateway does with a device of the machine's.
 *
 *   stamped-source FOLDER OCTETS [halt]
 *
 * FOLDER is where the function's FunctionFS is mounted. Each transfer of the device has OCTETS octets,
 * so a host that asks for more gets a short packet if they are no whole packets (512 octets), and one
 * that asks for part of a packet gets a babble. With `halt` the endpoint is halted behind each
 * transfer, so that a host that asks for more gets OCTETS octets and a stall, again and again.
 *
 * The first four octets of each packet are its number, little-endian. Vendor request 0x5d to the device
 * answers how many packets have left it, as urbgate's virtual:source-sink with `stamp` does
 * (12 octets: packets sent, and two zeros for what would be received). For an exact answer all
 * requests are taken back from the controller first, and given to it again with the same numbers.
 *
 * It prints "ready" when the gadget may be plugged in, and runs until it is killed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/usb/ch9.h>
#include <linux/usb/functionfs.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { QUEUE_MAX = 8, OCTETS_MAX = 16384, PACKET = 512, REQUEST_COUNTERS = 0x5d };

/* What the host may ask for next is ready: a ring, the oldest first. */
static struct transfer {
  struct iocb iocb;
  int out; /* at the controller */
  unsigned char data[OCTETS_MAX];
} queue[QUEUE_MAX];
static int depth = QUEUE_MAX, oldest;

static size_t octets;
static int halting;
static uint32_t next_stamp, packets_sent;
static int control, endpoint, completions;
static aio_context_t context;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static struct transfer *in_order(int index) { return &queue[(oldest + index) % depth]; }

static void stamp(struct transfer *transfer) {
  for (size_t at = 0; at < octets; at += PACKET, next_stamp++) {
    memcpy(transfer->data + at, &next_stamp, sizeof next_stamp);
  }
}

static void submit(struct transfer *transfer) {
  struct iocb *iocb = &transfer->iocb;
  memset(iocb, 0, sizeof *iocb);
  iocb->aio_lio_opcode = IOCB_CMD_PWRITE;
  iocb->aio_fildes = (uint32_t)endpoint;
  iocb->aio_buf = (uintptr_t)transfer->data;
  iocb->aio_nbytes = octets;
  iocb->aio_data = (uintptr_t)transfer;
  iocb->aio_flags = IOCB_FLAG_RESFD;
  iocb->aio_resfd = (uint32_t)completions;
  if (syscall(SYS_io_submit, context, 1, &iocb) != 1) die("Cannot submit a transfer");
  transfer->out = 1;
}

static void submit_all(void) {
  for (int index = 0; index < depth; index++) submit(in_order(index));
}

/* Reading from an IN endpoint halts it; FunctionFS says so by EBADMSG. */
static void halt(void) {
  char none;
  if (read(endpoint, &none, 1) >= 0 || errno != EBADMSG) die("Cannot halt the endpoint");
}

/* Takes what has ended, at least `least` of it; what was sent is stamped anew, behind all others. */
static void take_ended(long least, int again) {
  struct io_event events[QUEUE_MAX];
  long count = syscall(SYS_io_getevents, context, least, QUEUE_MAX, events, NULL);
  if (count < 0 && errno != EINTR) die("Cannot take what has ended");
  for (long at = 0; at < count; at++) {
    struct transfer *transfer = (struct transfer *)(uintptr_t)events[at].data;
    transfer->out = 0;
    if (events[at].res < 0) continue; /* taken back, or the host has gone */
    if (transfer != in_order(0)) {
      fprintf(stderr, "Cannot count: a transfer has ended before an older one\n");
      exit(1);
    }
    packets_sent += (uint32_t)((octets + PACKET - 1) / PACKET); /* the last cut off, perhaps */
    oldest = (oldest + 1) % depth;
    stamp(transfer);
    if (!again) continue;
    if (halting) halt();
    submit(transfer);
  }
}

/* Newest first, so that none of the others moves in its place. */
static void take_back(void) {
  for (int index = depth - 1; index >= 0; index--) {
    struct io_event unused;
    struct transfer *transfer = in_order(index);
    if (transfer->out) syscall(SYS_io_cancel, context, &transfer->iocb, &unused);
  }
  for (int index = 0; index < depth;) {
    if (queue[index].out) take_ended(1, 0);
    else index++;
  }
}

static void answer_counters(void) {
  take_back();
  uint32_t answer[3] = {packets_sent};
  if (write(control, answer, sizeof answer) < 0) perror("Cannot answer");
  submit_all();
}

static void serve_control(void) {
  struct usb_functionfs_event event;
  if (read(control, &event, sizeof event) != sizeof event) die("Cannot read an event");
  if (event.type == FUNCTIONFS_ENABLE) {
    take_back(); /* what a reset has swept away */
    submit_all();
  }
  if (event.type != FUNCTIONFS_SETUP) return;
  const struct usb_ctrlrequest *setup = &event.u.setup;
  if (setup->bRequestType == (USB_DIR_IN | USB_TYPE_VENDOR) && setup->bRequest == REQUEST_COUNTERS) {
    answer_counters();
  } else if (setup->bRequestType & USB_DIR_IN) {
    (void)!read(control, NULL, 0); /* the wrong way round: refuses it */
  } else {
    (void)!write(control, NULL, 0);
  }
}

/* As little-endian machines have it, which all are that this runs on. */
static void describe(void) {
  static const struct {
    struct usb_functionfs_descs_head_v2 head;
    uint32_t count;
    struct usb_interface_descriptor interface;
    struct usb_endpoint_descriptor_no_audio endpoint;
  } __attribute__((packed)) descriptors = {
      .head = {.magic = FUNCTIONFS_DESCRIPTORS_MAGIC_V2,
               .length = sizeof descriptors,
               .flags = FUNCTIONFS_HAS_HS_DESC | FUNCTIONFS_ALL_CTRL_RECIP},
      .count = 2,
      .interface = {.bLength = USB_DT_INTERFACE_SIZE,
                    .bDescriptorType = USB_DT_INTERFACE,
                    .bNumEndpoints = 1,
                    .bInterfaceClass = USB_CLASS_VENDOR_SPEC},
      .endpoint = {.bLength = USB_DT_ENDPOINT_SIZE,
                   .bDescriptorType = USB_DT_ENDPOINT,
                   .bEndpointAddress = 1 | USB_DIR_IN,
                   .bmAttributes = USB_ENDPOINT_XFER_BULK,
                   .wMaxPacketSize = PACKET},
  };
  static const struct usb_functionfs_strings_head strings = {.magic = FUNCTIONFS_STRINGS_MAGIC,
                                                             .length = sizeof strings};
  if (write(control, &descriptors, sizeof descriptors) < 0) die("Cannot describe the device");
  if (write(control, &strings, sizeof strings) < 0) die("Cannot describe the device");
}

int main(int argc, char **argv) {
  if (argc < 3) return 2;
  octets = strtoul(argv[2], NULL, 10);
  halting = argc > 3 && strcmp(argv[3], "halt") == 0;
  if (octets == 0 || octets > OCTETS_MAX || (halting && octets % PACKET != 0)) return 2;
  /* An endpoint with something to send cannot be halted. */
  if (halting) depth = 1;
  if (chdir(argv[1]) < 0 || (control = open("ep0", O_RDWR)) < 0) die(argv[1]);
  describe();
  if ((endpoint = open("ep1", O_RDWR)) < 0) die("ep1");
  if ((completions = eventfd(0, 0)) < 0) die("eventfd");
  if (syscall(SYS_io_setup, QUEUE_MAX, &context) < 0) die("io_setup");
  for (int index = 0; index < depth; index++) stamp(&queue[index]);
  puts("ready");
  fflush(stdout);
  for (;;) {
    struct pollfd ready[] = {{control, POLLIN, 0}, {completions, POLLIN, 0}};
    if (poll(ready, 2, -1) < 0) die("poll");
    if (ready[1].revents) {
      uint64_t count;
      if (read(completions, &count, sizeof count) < 0) die("eventfd");
      take_ended(0, 1);
    }
    if (ready[0].revents) serve_control();
  }
}
