/** A device of the Xen drivers, opened, and its ioctls. */
import { closeSync, constants, openSync } from 'node:fs';
import { UserError } from '../../core/errors.ts';
import { libc } from './libc.ts';

export class XenDevice {
  readonly fd: number;
  readonly #ioctl = libc().ioctl;

  /** @throws {UserError} if the device is absent, or may not be used. */
  constructor(path: string) {
    try {
      this.fd = openSync(path, constants.O_RDWR | constants.O_NONBLOCK);
    } catch (error) {
      const absent = (error as NodeJS.ErrnoException).code === 'ENOENT';
      const what = absent ? 'is absent' : `cannot be opened (${(error as Error).message})`;
      throw new UserError(
        `Cannot use Xen: ${path} ${what}, wanted a Xen domain with the modules xen-gntdev, xen-evtchn, xen-gntalloc`,
      );
    }
  }

  /** The result, negative if it failed. `argument` is at least what `request` says. */
  control(request: { readonly number: number }, argument: Buffer): number {
    return this.#ioctl(this.fd, request.number, argument);
  }

  close(): void {
    closeSync(this.fd);
  }
}
