/*
 * The agent of a lab guest: process 1, and the far end of `Guest.run` (guest.ts).
 *
 * Usage: guest-agent [TERMINAL]
 *
 * It reads frames from a virtio-serial port, or from a terminal such as the second console of a
 * domain of Xen, runs each command under a shell of its own, and sends
 * back what the command prints, how it ended, and every line of the kernel's log. A frame is three
 * little-endian 32-bit words (payload octets, command id, kind), then the payload; the kinds are
 * those of agent-frames.ts. It is written in C because a shell cannot frame binary data and Node
 * takes seconds to start under emulation.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum to_agent { START = 1, INPUT = 2, INPUT_END = 3, SIGNAL = 4, POWER_OFF = 5 };
enum to_host { HELLO = 1, OUTPUT = 2, ERROR_OUTPUT = 3, EXIT = 4, KERNEL_LOG = 5 };

#define COMMANDS_MAX 64
#define FRAME_OCTETS_MAX (1 << 20)

struct command {
  uint32_t id; /* 0: the slot is free */
  pid_t pid;
  int input, output, error_output; /* -1 when closed */
  char *pending; /* input that the command has not taken yet */
  size_t pending_octets;
  int input_ended;
};

static struct command commands[COMMANDS_MAX];
static int port;
static const char *terminal; /* what `port` is, unless it is a virtio-serial port */
static int greeted;

static void die(const char *what) {
  fprintf(stderr, "guest-agent: %s: %s\n", what, strerror(errno));
  sync();
  reboot(RB_POWER_OFF);
  _exit(1);
}

/* A domain that is restored finds its terminal hung up, and a new one in its place. */
static void open_terminal(void) {
  struct termios settings;
  if (port > 0) close(port);
  for (int tries = 0; tries < 1000; tries++) {
    port = open(terminal, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (port >= 0 && tcgetattr(port, &settings) == 0) {
      cfmakeraw(&settings);
      settings.c_cflag |= CLOCAL;
      greeted = 0; /* the host waits for it: what comes before the settings would be spoilt */
      if (tcsetattr(port, TCSANOW, &settings) == 0) return;
    }
    if (port >= 0) close(port);
    usleep(10000);
  }
  die("Cannot open the terminal");
}

static void write_all(const void *data, size_t octets) {
  const char *at = data;
  while (octets > 0) {
    ssize_t done = write(port, at, octets);
    if (done < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (done < 0 && terminal != NULL) {
      open_terminal();
      continue;
    }
    if (done < 0) die("Cannot write to the host");
    at += done;
    octets -= (size_t)done;
  }
}

static void send_frame(uint32_t id, uint32_t kind, const void *payload, uint32_t octets) {
  uint32_t header[3] = {octets, id, kind};
  write_all(header, sizeof header);
  write_all(payload, octets);
}

/* @returns 0 if there is a new terminal instead, which starts with a new frame */
static int read_all(void *data, size_t octets) {
  char *at = data;
  while (octets > 0) {
    ssize_t done = read(port, at, octets);
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0 && terminal != NULL) {
      open_terminal();
      return 0;
    }
    if (done <= 0) die("Cannot read from the host");
    at += done;
    octets -= (size_t)done;
  }
  return 1;
}

static struct command *find(uint32_t id) {
  for (int i = 0; i < COMMANDS_MAX; i++)
    if (commands[i].id == id) return &commands[i];
  return NULL;
}

static void close_end(int *end) {
  if (*end >= 0) close(*end);
  *end = -1;
}

static void start(uint32_t id, const char *line) {
  struct command *command = find(0);
  int in[2], out[2], err[2];
  if (command == NULL || pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) || pipe2(err, O_CLOEXEC)) {
    int32_t code = 126;
    send_frame(id, EXIT, &code, sizeof code);
    return;
  }
  pid_t pid = fork();
  if (pid < 0) die("Cannot fork");
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    setsid();
    dup2(in[0], 0);
    dup2(out[1], 1);
    dup2(err[1], 2);
    execl("/bin/sh", "sh", "-c", line, (char *)NULL);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  close(err[1]);
  fcntl(in[1], F_SETFL, O_NONBLOCK);
  fcntl(out[0], F_SETFL, O_NONBLOCK);
  fcntl(err[0], F_SETFL, O_NONBLOCK);
  *command = (struct command){
      .id = id, .pid = pid, .input = in[1], .output = out[0], .error_output = err[0]};
}

/* Gives the command as much of its pending input as it takes now. */
static void feed(struct command *command) {
  while (command->input >= 0 && command->pending_octets > 0) {
    ssize_t done = write(command->input, command->pending, command->pending_octets);
    if (done < 0 && errno == EAGAIN) return;
    if (done < 0) {
      command->pending_octets = 0;
      close_end(&command->input);
      return;
    }
    command->pending_octets -= (size_t)done;
    memmove(command->pending, command->pending + done, command->pending_octets);
  }
  if (command->input_ended) close_end(&command->input);
}

/* Passes on what a command has printed. Closes the end when the command has closed its own. */
static void drain(struct command *command, int *end, uint32_t kind) {
  static char block[65536];
  while (*end >= 0) {
    ssize_t octets = read(*end, block, sizeof block);
    if (octets > 0) {
      send_frame(command->id, kind, block, (uint32_t)octets);
      continue;
    }
    if (octets < 0 && errno == EINTR) continue;
    if (octets < 0 && errno == EAGAIN) return;
    close_end(end);
  }
}

static void take_frame(void) {
  static char payload[FRAME_OCTETS_MAX + 1];
  uint32_t header[3];
  if (!read_all(header, sizeof header)) return;
  if (header[0] > FRAME_OCTETS_MAX) die("Cannot take a frame: it is too long");
  if (!read_all(payload, header[0])) return;
  payload[header[0]] = 0;
  struct command *command = find(header[1]);
  switch (header[2]) {
    case START:
      start(header[1], payload);
      return;
    case POWER_OFF:
      sync();
      reboot(RB_POWER_OFF);
      return;
  }
  if (command == NULL) return; /* it ended before the host knew */
  switch (header[2]) {
    case INPUT:
      command->pending = realloc(command->pending, command->pending_octets + header[0]);
      if (command->pending == NULL) die("Cannot keep input");
      memcpy(command->pending + command->pending_octets, payload, header[0]);
      command->pending_octets += header[0];
      feed(command);
      return;
    case INPUT_END:
      command->input_ended = 1;
      feed(command);
      return;
    case SIGNAL:
      kill(-command->pid, *(int32_t *)payload);
      return;
  }
}

/* Collects every ended process: those of the host, and orphans, which come to process 1. */
static void reap(void) {
  int status;
  pid_t pid;
  while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
    for (int i = 0; i < COMMANDS_MAX; i++) {
      struct command *command = &commands[i];
      if (command->id == 0 || command->pid != pid) continue;
      drain(command, &command->output, OUTPUT);
      drain(command, &command->error_output, ERROR_OUTPUT);
      int32_t code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
      send_frame(command->id, EXIT, &code, sizeof code);
      close_end(&command->input);
      close_end(&command->output);
      close_end(&command->error_output);
      free(command->pending);
      *command = (struct command){.id = 0};
    }
  }
}

/* Forwards the kernel's log as "<level>[seconds] text" lines, several to a frame. */
static void forward_kernel_log(int log) {
  static char record[8192], frame[65536];
  size_t used = 0;
  for (;;) {
    ssize_t octets = read(log, record, sizeof record - 1);
    if (octets < 0 && errno == EPIPE) continue; /* records were overwritten: go on */
    if (octets <= 0) break;
    record[octets] = 0;
    unsigned level;
    unsigned long long sequence, microseconds;
    char *text = strchr(record, ';');
    if (text == NULL) continue;
    if (sscanf(record, "%u,%llu,%llu", &level, &sequence, &microseconds) != 3) continue;
    char *end = strchr(++text, '\n');
    if (end != NULL) *end = 0;
    used += (size_t)snprintf(frame + used, sizeof frame - used, "<%u>[%llu.%06llu] %s\n", level & 7,
                             microseconds / 1000000, microseconds % 1000000, text);
    if (used > sizeof frame - sizeof record - 64) {
      send_frame(0, KERNEL_LOG, frame, (uint32_t)used);
      used = 0;
    }
  }
  if (used > 0) send_frame(0, KERNEL_LOG, frame, (uint32_t)used);
}

/* The number in the port's name depends on what other virtio devices there are. */
static void open_port(void) {
  glob_t found;
  /* The driver makes the port after the host has answered it, so it may take a moment. */
  for (int tries = 0; tries < 1000; tries++) {
    if (glob("/dev/vport*p1", 0, NULL, &found) == 0) {
      port = open(found.gl_pathv[0], O_RDWR | O_CLOEXEC);
      globfree(&found);
      if (port >= 0) return;
    }
    usleep(10000);
  }
  die("Cannot open the virtio-serial port");
}

int main(int argc, char **argv) {
  if (argc > 1) {
    terminal = argv[1];
    open_terminal();
  } else {
    open_port();
  }
  int log = open("/dev/kmsg", O_RDONLY | O_NONBLOCK | O_CLOEXEC);
  signal(SIGPIPE, SIG_IGN);
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_BLOCK, &children, NULL);
  int ended = signalfd(-1, &children, SFD_NONBLOCK | SFD_CLOEXEC);
  struct utsname name;
  uname(&name);

  for (;;) {
    while (!greeted) {
      greeted = 1;
      send_frame(0, HELLO, name.release, (uint32_t)strlen(name.release));
    }
    struct pollfd ends[3 + 3 * COMMANDS_MAX];
    ends[0] = (struct pollfd){port, POLLIN, 0};
    ends[1] = (struct pollfd){ended, POLLIN, 0};
    ends[2] = (struct pollfd){log, POLLIN, 0};
    for (int i = 0; i < COMMANDS_MAX; i++) {
      struct command *command = &commands[i];
      int used = command->id != 0;
      int feeding = used && command->pending_octets > 0;
      ends[3 + 3 * i] = (struct pollfd){feeding ? command->input : -1, POLLOUT, 0};
      ends[4 + 3 * i] = (struct pollfd){used ? command->output : -1, POLLIN, 0};
      ends[5 + 3 * i] = (struct pollfd){used ? command->error_output : -1, POLLIN, 0};
    }
    if (poll(ends, 3 + 3 * COMMANDS_MAX, -1) < 0 && errno != EINTR) die("Cannot poll");
    for (int i = 0; i < COMMANDS_MAX; i++) {
      if (ends[3 + 3 * i].revents) feed(&commands[i]);
      if (ends[4 + 3 * i].revents) drain(&commands[i], &commands[i].output, OUTPUT);
      if (ends[5 + 3 * i].revents) drain(&commands[i], &commands[i].error_output, ERROR_OUTPUT);
    }
    if (ends[2].revents) forward_kernel_log(log);
    if (ends[1].revents) {
      struct signalfd_siginfo information;
      while (read(ended, &information, sizeof information) > 0) continue;
      reap();
    }
    if (ends[0].revents) take_frame();
  }
}
