/**
 * The device that a SPEC `remote:HOST[:PORT]/BUSID` brings, as often as it comes: when the other server
 * goes or the network does, the device is taken back, and with `wait` tried again until it is there.
 *
 * When to try is `attachment.ts`'s to say, as for `urbgate attach`: this gateway is a client that
 * waits and persists.
 */
import type { Clock } from '../core/clock.ts';
import { AttachmentDriver } from './attachment-driver.ts';
import type { RemoteUsbDevice } from './remote-device.ts';

const WHY_LOST = 'the server or the device has gone';

export interface RemoteSourceOptions {
  /** Imports the device, once. */
  readonly open: () => Promise<RemoteUsbDevice>;
  readonly wait: boolean;
  readonly clock: Clock;
  /** The device came after `start`, and is the callee's. */
  readonly onAdded: (device: RemoteUsbDevice) => Promise<void>;
  /** It has gone; the callee disposes of it. */
  readonly onGone: (device: RemoteUsbDevice) => void;
  /** Why it is not there; said when it begins to be so, and not for each try. */
  readonly onAwaited: (why: string) => void;
}

export class RemoteSource {
  readonly #options: RemoteSourceOptions;
  readonly #driver: AttachmentDriver;

  constructor(options: RemoteSourceOptions) {
    this.#options = options;
    const { wait, clock } = options;
    this.#driver = new AttachmentDriver({
      wait,
      persist: wait,
      clock,
      act: (action) => {
        if (action === 'connect') this.#tryAgain();
      },
    });
  }

  /**
   * Opens the device if it is there.
   *
   * @throws {UserError} without `wait`, if it is not.
   */
  async start(): Promise<RemoteUsbDevice[]> {
    try {
      const device = await this.#options.open();
      this.#opened(device);
      return [device];
    } catch (error) {
      const why = messageOf(error);
      this.#driver.event({ type: 'failed', why });
      if (!this.#options.wait) throw error;
      this.#options.onAwaited(why);
      return [];
    }
  }

  /** Nothing more is to come. What was opened stays. */
  stop(): void {
    this.#driver.event({ type: 'stop' });
  }

  async #tryAgain(): Promise<void> {
    try {
      const device = await this.#options.open();
      if (this.#driver.phase === 'ended') {
        await device.dispose(); // it was stopped meanwhile
        return;
      }
      this.#opened(device);
      await this.#options.onAdded(device);
    } catch (error) {
      this.#driver.event({ type: 'failed', why: messageOf(error) });
    }
  }

  #opened(device: RemoteUsbDevice): void {
    this.#driver.event({ type: 'connected' });
    device.gone.then((how) => {
      if (how === 'disposed') {
        this.stop(); // it is not wanted any more
        return;
      }
      this.#options.onGone(device);
      this.#driver.event({ type: 'lost', why: WHY_LOST });
      if (this.#driver.phase === 'waiting') this.#options.onAwaited(WHY_LOST);
    });
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
