/*
 * Runs QEMU for guest.ts, and sees to it that nothing stays behind.
 *
 * - QEMU gets SIGKILL when this process ends, and this process when its parent ends: no guest
 *   outlives its test run, however that ends.
 * - The forwarders that QEMU starts (forward.c) are orphans by design of its library. They are
 *   adopted and reaped here, as process 1 of a container often does not.
 * - SIGTERM kills QEMU at once, SIGUSR1 stops it, SIGUSR2 lets it go on.
 *
 * Usage: keeper COMMAND ARGUMENT...
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* How long forwarders may take to end after QEMU. */
#define LAST_SECONDS 2

static volatile pid_t child;
static volatile int status;

static void pass_on(int number) {
  kill(child, number == SIGTERM ? SIGKILL : number == SIGUSR1 ? SIGSTOP : SIGCONT);
}

static int exit_code(void) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static void give_up(int number) {
  (void)number;
  _exit(exit_code());
}

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  pid_t parent = getppid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) return 1;
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  pid_t self = getpid();
  child = fork();
  if (child == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != self) _exit(1);
    execvp(argv[1], argv + 1);
    fprintf(stderr, "keeper: %s: %s\n", argv[1], strerror(errno));
    _exit(127);
  }
  struct sigaction action = {.sa_handler = pass_on, .sa_flags = SA_RESTART};
  sigaction(SIGTERM, &action, NULL);
  sigaction(SIGUSR1, &action, NULL);
  sigaction(SIGUSR2, &action, NULL);
  signal(SIGALRM, give_up);
  /* The pipes are QEMU's alone: their end tells the parent that it is gone. */
  close(0);
  close(1);
  close(2);
  for (;;) {
    int ended;
    pid_t pid = waitpid(-1, &ended, 0);
    if (pid < 0 && errno == EINTR) continue;
    if (pid < 0) return exit_code();
    if (pid == child) {
      status = ended;
      alarm(LAST_SECONDS);
    }
  }
}
