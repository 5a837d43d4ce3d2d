/**
 * When the completion handlers of drivers behind the kernel's vhci have run: an exact fence.
 *
 * After an error was reported to vhci, nothing on the wire says that the driver's handler has
 * returned. But vhci runs on this machine, and its two threads can be watched:
 *
 * - vhci_rx reads one reply after the other and calls the handler before it reads on (vhci gives
 *   back synchronously: its driver has no HCD_BH). So the handlers of all replies up to a place in
 *   the stream have returned when vhci_rx has read octets behind that place; or when it has read up
 *   to it and sleeps in its read.
 * - What a handler unlinks or submits stands in a list, and the handler has woken vhci_tx, before
 *   it returns. vhci_tx sends both lists until they are empty, and only then sleeps in
 *   vhci_tx_loop. So if vhci_tx is seen asleep there later, all of it has been sent.
 * - What has been sent lies in the buffer of our socket. When we have read as many octets as were in
 *   it at that moment, the client's answer to the report is known, whole.
 *
 * "Asleep" must mean: off the run queue. A thread that is about to sleep looks asleep for a moment
 * before it checks its lists for the last time. /proc/PID/wchan has this right from Linux 5.16 on:
 * it names a function only while the thread is blocked (get_wchan in kernel/sched/core.c).
 *
 * The unlinks that come of a report are answered, their answers are reports too, and the handlers of
 * those must run before the queue goes on: so rounds go on until one ends with no report left.
 *
 * `VhciFence` is pure: it asks `VhciWatch` (vhci-threads.ts) and is called again by its driver.
 * Where threads cannot be watched (an older kernel, another pid namespace), a round waits until all
 * is read and then for GRACE_MILLISECONDS: the timed fence, at its shortest. A round that does not
 * come to its end, because vhci_tx is never seen asleep, ends by time too.
 */

/** Octets are counted from the beginning of each stream. */
export interface VhciWatch {
  /** Octets of replies that were given to the socket. */
  written(): number;
  /** How many of those the kernel's end has not read. */
  unread(): number;
  /** Whether vhci_rx sleeps in its read; undefined if that cannot be seen. */
  receiverSleeps(): boolean | undefined;
  /** Whether vhci_tx sleeps with nothing to send; undefined if that cannot be seen. */
  senderSleeps(): boolean | undefined;
  /** Octets of commands that were read from the socket. */
  received(): number;
  /** Octets of commands that wait in the socket. */
  arrived(): number;
}

/** Where nothing can be watched: from the last octet read to the handler's unlinks sent. */
const GRACE_MILLISECONDS = 10;
/** A round that takes longer ends by time. */
const ROUND_MILLISECONDS_MAX = 1000;

type Stage =
  | { readonly name: 'idle' }
  /** vhci_rx has not got past `mark`. */
  | { readonly name: 'reading'; readonly mark: number; readonly since: number }
  /** vhci_tx has not been seen asleep since. */
  | { readonly name: 'sending'; readonly mark: number; readonly since: number }
  /** Commands up to `until` are not read. */
  | { readonly name: 'arriving'; readonly mark: number; readonly until: number };

const IDLE: Stage = { name: 'idle' };

export class VhciFence {
  readonly #watch: VhciWatch;
  #stage: Stage = IDLE;
  /** Where the newest report ends; -1 if there is none that waits. */
  #reported = -1;
  /** Rounds, and how many of them ended by time. */
  rounds = 0;
  timedRounds = 0;

  constructor(watch: VhciWatch) {
    this.#watch = watch;
  }

  /** A report ends at `mark` of the replies' stream: its handler is to be waited for. */
  reported(mark: number): void {
    this.#reported = mark;
  }

  /** Whether `look` is wanted, soon and again. */
  get waits(): boolean {
    return this.#stage.name !== 'idle' || this.#reported >= 0;
  }

  /**
   * Looks how far vhci is. Returns the place up to which the handlers of all replies have run and
   * what they brought about has been read; -1 if there is nothing new to say.
   */
  look(now: number): number {
    if (this.#stage.name === 'idle') {
      if (this.#reported < 0) return -1;
      this.#stage = { name: 'reading', mark: this.#reported, since: now };
      this.#reported = -1;
    }
    if (this.#stage.name === 'reading') this.#lookAtReceiver(this.#stage, now);
    if (this.#stage.name === 'sending') this.#lookAtSender(this.#stage, now);
    if (this.#stage.name !== 'arriving') return -1;
    const { mark, until } = this.#stage;
    if (this.#watch.received() < until) return -1;
    this.#stage = IDLE;
    this.rounds++;
    return mark;
  }

  #lookAtReceiver({ mark, since }: Stage & { name: 'reading' }, now: number): void {
    const watch = this.#watch;
    // In this order: what sleeps after all was read has handled all.
    const read = watch.written() - watch.unread();
    if (read < mark) return; // no time limit: a connection that is not read from is dead or slow
    const handled = read > mark || watch.receiverSleeps();
    if (handled === false) {
      if (now - since < ROUND_MILLISECONDS_MAX) return;
      this.timedRounds++;
    }
    this.#stage = { name: 'sending', mark, since: now };
  }

  #lookAtSender({ mark, since }: Stage & { name: 'sending' }, now: number): void {
    const watch = this.#watch;
    const sleeps = watch.senderSleeps();
    const patience = sleeps === undefined ? GRACE_MILLISECONDS : ROUND_MILLISECONDS_MAX;
    if (sleeps !== true) {
      if (now - since < patience) return;
      this.timedRounds++;
    }
    this.#stage = { name: 'arriving', mark, until: watch.received() + watch.arrived() };
  }
}
