/** What this machine has, as a Xen guest, of the controllers that its toolstack has given it. */
import { existsSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { UserError } from '../core/errors.ts';
import type { Platform } from '../xenring/platform.ts';

/** Where the kernel has its front ends' devices. */
const XEN_BUS = '/sys/bus/xen/devices';

/** Pages, events and store of a guest; tests have others than Xen's. */
export interface GuestRings {
  /** @throws {UserError} if this is no Xen guest, or its devices cannot be used. */
  open(): Promise<Platform>;
  /**
   * Takes a controller for this process; the function that it returns gives it back.
   *
   * @throws {UserError} if the kernel's front end or another process has it.
   */
  claim(controller: number): Promise<() => void>;
}

export class XenGuestRings implements GuestRings {
  readonly #bus: string;

  /** Another folder is for tests. */
  constructor(bus = XEN_BUS) {
    this.#bus = bus;
  }

  /** Loads what only Xen needs only then: it calls the C library. */
  async open(): Promise<Platform> {
    const { openXenPlatform } = await import('../xenring/platform/xen.ts');
    return await openXenPlatform();
  }

  async claim(controller: number): Promise<() => void> {
    const what = `Cannot attach controller ${controller} of this guest`;
    if (existsSync(join(this.#bus, `vusb-${controller}`, 'driver'))) {
      throw new UserError(
        `${what}: the kernel's xen-hcd has it and its devices are here, wanted a controller that no driver has`,
      );
    }
    // A name without a file: it is free again when its process ends, however that ends.
    const lock = createServer();
    await new Promise<void>((resolve, reject) => {
      lock.once('listening', resolve);
      lock.once('error', () =>
        reject(new UserError(`${what}: another process has it, see urbgate port`)),
      );
      lock.listen(`\0urbgate-vusb-${controller}`);
    });
    lock.unref();
    return () => lock.close();
  }
}
