/**
 * One guest for the tests of a run, so that the cost of booting is paid once.
 *
 * A test that leaves the kernel unwell, or kills its guest on purpose, boots its own.
 */

import { bootGuest, type Guest } from './guest.ts';

let shared: Promise<Guest> | undefined;

/**
 * The shared guest, booted when first asked for, and anew after it has died or complained.
 *
 * It need not be ended: QEMU goes with this process, and does not keep it alive.
 */
export async function sharedGuest(): Promise<Guest> {
  const present = await shared?.catch(() => undefined);
  if (present?.alive && present.kernelComplaints().length === 0) return present;
  if (present?.alive) await present.kill();
  shared = bootGuest({ name: 'shared' });
  return shared;
}
