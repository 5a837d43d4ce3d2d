/**
 * A die: the vendor request 1 rolls it. wValue is the number of sides, the answer one octet.
 *
 * From a host: `libusb_control_transfer(die, 0xc0, 1, 6, 0, &roll, 1, 1000)`
 */
import { data, defineDevice, stall } from '../src/core/devices/virtual/definition.ts';

const ROLL = 1;
const SIDES_MAX = 255;

/** A linear congruential generator, so that everybody who knows the seed knows the game. */
const next = (seed: number): number => (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;

export default defineDevice({
  vendorId: 0x1209,
  productId: 0x0002,
  speed: 'full',
  strings: { manufacturer: 'Example', product: 'Die' },
  state: () => ({ seed: 1 }),
  configurations: [{ interfaces: [{ class: 0xff, endpoints: [] }] }],
  onControl: [
    {
      type: 'vendor',
      direction: 'in',
      recipient: 'device',
      request: ROLL,
      answer: (state, { value: sides }) => {
        if (sides < 1 || sides > SIDES_MAX) return stall;
        state.seed = next(state.seed);
        return data(Uint8Array.of(1 + Math.floor((state.seed / 2 ** 32) * sides)));
      },
    },
  ],
});
