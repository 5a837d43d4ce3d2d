/**
 * Log lines about what peers do, counted where they come too fast.
 *
 * A stranger causes a line with each connection, and can open thousands of them a second. So each kind of
 * line is written a limited number of times in a window; after that it is only counted, and one line
 * at the end of the window says how many more there were, and from how many addresses. Nothing is left out
 * silently, and what strangers can make a log grow by is known: the kinds, times `LINES_MAX`, a window.
 */
import { backgroundClock, type Clock } from './clock.ts';
import { type BugLog, stackOf } from './containment.ts';

/** Lines of one kind that are written in a window. */
export const LINES_MAX = 50;
export const WINDOW_MILLISECONDS = 10_000;
/** Addresses that are told apart in one window. */
export const PEERS_COUNTED_MAX = 1000;

/**
 * A log for lines that peers cause. `kind` is in words, as the summary has them: "refused imports"; there
 * are few, for each has a window of its own. `peer` is who caused it: an address without its port, the
 * name of a guest.
 */
export interface PeerLog extends BugLog {
  info(message: string, kind: string, peer: string): void;
}

type Level = 'info' | 'warn' | 'error';

/** Where the lines go. */
export interface LineSink {
  info(message: string): void;
  warn(message: string): void;
  /** Default: `warn`. */
  error?(message: string): void;
  /** A bug, in the form that the log has for them; default: `error` with the stack. */
  bug?(error: unknown, what: string): void;
}

interface Window {
  readonly level: Level;
  readonly end: number;
  writtenCount: number;
  /** Lines that were counted in place of being written, and who caused those. */
  leftOutCount: number;
  readonly peers: Set<string>;
  cancelTimer: () => void;
}

export class PeerLines implements PeerLog {
  readonly #sink: LineSink;
  readonly #clock: Clock;
  readonly #windows = new Map<string, Window>();

  constructor(sink: LineSink, clock: Clock = backgroundClock) {
    this.#sink = sink;
    this.#clock = clock;
  }

  info(message: string, kind: string, peer: string): void {
    this.#say('info', message, kind, peer);
  }

  warn(message: string, kind: string, peer: string): void {
    this.#say('warn', message, kind, peer);
  }

  error(message: string, kind: string, peer: string): void {
    this.#say('error', message, kind, peer);
  }

  bug(error: unknown, what: string, peer: string): void {
    const { bug } = this.#sink;
    if (bug === undefined) this.#say('error', `${what}: ${stackOf(error)}`, 'bugs', peer);
    else this.#say('error', what, 'bugs', peer, (what) => bug.call(this.#sink, error, what));
  }

  /** Writes what is counted so far: the log ends. */
  flush(): void {
    for (const kind of [...this.#windows.keys()]) this.#close(kind);
  }

  #say(
    level: Level,
    message: string,
    kind: string,
    peer: string,
    write = (line: string) => this.#write(level, line),
  ): void {
    const window = this.#windowOf(kind, level);
    if (window.writtenCount < LINES_MAX) {
      window.writtenCount++;
      write(message);
      return;
    }
    if (window.leftOutCount++ === 0) {
      const left = Math.max(0, window.end - this.#clock.now());
      window.cancelTimer = this.#clock.after(left, () => this.#close(kind));
    }
    if (window.peers.size < PEERS_COUNTED_MAX) window.peers.add(peer);
  }

  #windowOf(kind: string, level: Level): Window {
    const now = this.#clock.now();
    const open = this.#windows.get(kind);
    if (open !== undefined && now < open.end) return open;
    this.#close(kind);
    const window: Window = {
      level,
      end: now + WINDOW_MILLISECONDS,
      writtenCount: 0,
      leftOutCount: 0,
      peers: new Set(),
      cancelTimer: () => {},
    };
    this.#windows.set(kind, window);
    return window;
  }

  #close(kind: string): void {
    const window = this.#windows.get(kind);
    if (window === undefined) return;
    this.#windows.delete(kind);
    window.cancelTimer();
    if (window.leftOutCount === 0) return;
    const { leftOutCount, peers, level } = window;
    const least = peers.size < PEERS_COUNTED_MAX ? '' : ' or more';
    const many = `${peers.size.toLocaleString('en-US')}${least} address${peers.size === 1 ? '' : 'es'}`;
    this.#write(
      level,
      `… and ${leftOutCount.toLocaleString('en-US')} more ${kind} from ${many} in the last ${WINDOW_MILLISECONDS / 1000} s`,
    );
  }

  #write(level: Level, message: string): void {
    if (level === 'error' && this.#sink.error === undefined) this.#sink.warn(message);
    else this.#sink[level]?.(message);
  }
}
