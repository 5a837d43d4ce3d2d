/** Exports that are coming about: each has a time, and none is wanted when the gateway has closed. */
import { type Clock, systemClock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import { within } from '../core/within.ts';
import type { Source } from './schemes.ts';

/** To find hardware, or another server's device, and to take it. */
export const OPEN_MILLISECONDS = 40_000;
/** For what is coming about when the gateway closes. */
const CLOSE_MILLISECONDS = 500;

export class Openings {
  readonly #clock: Clock;
  readonly #underWay = new Set<Promise<unknown>>();
  #isClosed = false;

  /** Another clock is for tests. */
  constructor(clock: Clock = systemClock) {
    this.#clock = clock;
  }

  /** Does what ends with an export, or with none. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    const underWay = work();
    this.#underWay.add(underWay);
    try {
      return await underWay;
    } finally {
      this.#underWay.delete(underWay);
    }
  }

  /**
   * Opens a source. One that comes when it is not wanted any more is let go of.
   *
   * @throws {UserError} what `open` throws, or if it takes too long, or the gateway closes.
   */
  async open(text: string, open: () => Promise<Source>): Promise<Source> {
    let isWanted = true;
    const refuse = (what: string): never => {
      isWanted = false;
      throw new UserError(`Cannot export ${text}: ${what}`);
    };
    if (this.#isClosed) refuse('the gateway is stopping');
    const opening = open();
    const late = () => refuse(`it takes longer than ${OPEN_MILLISECONDS / 1000} s`);
    const opened = within(opening, OPEN_MILLISECONDS, late, this.#clock);
    void opening.then((source) => isWanted || letGo(source)).catch(() => {}); // `opened` says so
    const source = await opened;
    if (!this.#isClosed) return source;
    letGo(source);
    return refuse('the gateway is stopping');
  }

  /** Nothing is wanted any more. Resolves when nothing is under way, or soon. */
  async close(): Promise<void> {
    this.#isClosed = true;
    const ended = Promise.allSettled(this.#underWay).then(() => {});
    await within(ended, CLOSE_MILLISECONDS, () => {}, this.#clock);
  }
}

/** Nobody waits for that. */
function letGo(source: Source): void {
  source.stop();
  for (const { device } of source.devices) void device.dispose().catch(() => {});
}
