/** How a gateway closes: all that it has at the same time, and what does not let go is known by name. */
import type { Registry } from '../core/registry.ts';
import { within } from '../core/within.ts';
import type { UsbipServer } from '../usbip/server.ts';
import type { Backends } from '../xenring/backends.ts';
import type { Platform } from '../xenring/platform.ts';
import type { Log } from './log.ts';
import type { Openings } from './openings.ts';

/** For clients and guests to receive what is left. Then their devices are taken from them. */
const GOODBYE_MILLISECONDS = 2_250;

/** For a device to let go in an orderly way; clients had their time before. */
const ORDERLY_MILLISECONDS = 500;

export interface Rings {
  readonly name: string;
  readonly platform: Platform;
  readonly backends: Backends;
}

export interface Closed {
  readonly openings: Openings;
  readonly server: UsbipServer;
  readonly rings: readonly Rings[];
  readonly registry: Registry;
}

export class Closing {
  readonly #log: Log;
  readonly #unfinished: string[] = [];

  constructor(log: Log) {
    this.#log = log;
  }

  /** What is being closed, for people. */
  get unfinished(): readonly string[] {
    return this.#unfinished;
  }

  /** What fails is said in the log, and keeps nothing else from being closed. */
  async close({ openings, server, rings, registry }: Closed): Promise<void> {
    await openings.close();
    const goodbyes = [
      this.#end('the connections of clients', server.close()),
      ...rings.map((one) => this.#end(`the rings of ${one.name}`, endRings(one))),
    ];
    const all = Promise.all(goodbyes).then(() => {});
    await within(all, GOODBYE_MILLISECONDS, () => {});
    const removals = registry.list().map(({ busId, device, holder }) => {
      const of = holder === null ? '' : ` of ${holder.peer}`;
      return this.#end(
        `${busId} (${device.info.label})${of}`,
        registry.remove(busId, ORDERLY_MILLISECONDS),
      );
    });
    await Promise.all([all, ...removals]);
  }

  async #end(name: string, work: Promise<void>): Promise<void> {
    this.#unfinished.push(name);
    try {
      await work;
    } catch (error) {
      this.#log.warn(`Cannot close ${name}: ${error instanceof Error ? error.message : error}`);
    }
    this.#unfinished.splice(this.#unfinished.indexOf(name), 1);
  }
}

async function endRings({ backends, platform }: Rings): Promise<void> {
  await backends.stop();
  await platform.close();
}
