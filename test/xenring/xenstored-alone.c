/*
 * Lets a stock xenstored run on a host without Xen, for tests of the store's client: preloaded, it
 * stands in for the calls to the hypervisor that xenstored makes when it starts and when a domain
 * is introduced. What clients ask over the socket is xenstored's own doing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

static int handle;

void *xc_interface_open(void *logger, void *dom_logger, unsigned flags) { return &handle; }
int xc_interface_close(void *xc) { return 0; }

/* xc_dominfo_t begins with the domain's id, then flags such as "dying". */
int xc_domain_getinfo(void *xc, uint32_t first, unsigned count, void *info) {
  memset(info, 0, 16);
  memcpy(info, &first, sizeof first);
  return 1;
}

void *xenevtchn_open(void *logger, unsigned flags) { return &handle; }
void *xenevtchn_fdopen(void *logger, int fd, unsigned flags) { return &handle; }
int xenevtchn_fd(void *xce) {
  static int fd = -1;
  if (fd < 0) fd = eventfd(0, 0);
  return fd;
}
int xenevtchn_bind_interdomain(void *xce, uint32_t domain, uint32_t port) { return port; }
int xenevtchn_bind_virq(void *xce, unsigned virq) { return 1; }
int xenevtchn_notify(void *xce, uint32_t port) { return 0; }
int xenevtchn_pending(void *xce) { return -1; }
int xenevtchn_unbind(void *xce, uint32_t port) { return 0; }
int xenevtchn_unmask(void *xce, uint32_t port) { return 0; }

void *xengnttab_open(void *logger, unsigned flags) { return &handle; }
int xengnttab_close(void *xgt) { return 0; }
int xengnttab_set_max_grants(void *xgt, uint32_t count) { return 0; }
int xengnttab_unmap(void *xgt, void *page, uint32_t count) { return munmap(page, 4096); }
void *xengnttab_map_grant_ref(void *xgt, uint32_t domain, uint32_t reference, int protection) {
  return mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

/* Files of the kernel: the event channel and the page of dom0's own connection. */
int open(const char *path, int flags, ...) {
  static int (*next)(const char *, int, ...);
  va_list list;
  va_start(list, flags);
  int mode = va_arg(list, int);
  va_end(list);
  if (strcmp(path, "/proc/xen/xsd_port") == 0) {
    int fd = memfd_create("port", 0);
    if (write(fd, "1\n", 2) != 2) return -1;
    lseek(fd, 0, SEEK_SET);
    return fd;
  }
  if (strcmp(path, "/proc/xen/xsd_kva") == 0) {
    int fd = memfd_create("page", 0);
    return ftruncate(fd, 4096) == 0 ? fd : -1;
  }
  if (next == 0) next = dlsym(RTLD_NEXT, "open");
  return next(path, flags, mode);
}
