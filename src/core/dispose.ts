/** Lets go of a device that no registry has. */
import { type Clock, systemClock } from './clock.ts';
import type { UsbDevice } from './device.ts';
import { LET_GO_MILLISECONDS } from './limits.ts';
import { within } from './within.ts';

/** A device that takes too long is not waited for. */
export function disposeOf(device: UsbDevice, clock: Clock = systemClock): Promise<void> {
  return within(device.dispose(), LET_GO_MILLISECONDS, () => {}, clock);
}
