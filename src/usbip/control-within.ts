/** Requests that have a time in all, besides each one's own. */
import { type Clock, systemClock } from '../core/clock.ts';
import { resultOf } from '../core/transfer.ts';
import type { ControlPipe } from './relay-device.ts';

/** For all descriptors, settings and strings of a device. */
export const DESCRIPTORS_MILLISECONDS = 15_000;

/** The same pipe, but what is asked when the time is over ends as 'timeout'. */
export function controlWithin(
  pipe: ControlPipe,
  milliseconds = DESCRIPTORS_MILLISECONDS,
  clock: Clock = systemClock,
): ControlPipe {
  const end = clock.now() + milliseconds;
  return {
    name: pipe.name,
    speed: pipe.speed,
    transferWithin: async (transfer, mostMilliseconds) => {
      const left = end - clock.now();
      if (left <= 0) return resultOf('timeout');
      return await pipe.transferWithin(transfer, Math.min(mostMilliseconds, left));
    },
  };
}
