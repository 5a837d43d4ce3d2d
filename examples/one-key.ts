/** A keyboard with one key, which somebody presses every ten seconds: a whole HID device. */
import { ack, data, defineDevice, nak, stall } from '../src/core/devices/virtual/definition.ts';

const GET_DESCRIPTOR = 6;
const SET_IDLE = 10;
const KEY = 0x81; // the endpoint
const PRESS_MILLISECONDS = 10_000;

/** One bit for the key "a", seven of padding (HID 1.11, 6.2.2). */
const REPORT = Buffer.from('05010906a1010507190429041500250175019501810275078101c0', 'hex');
const HID = Uint8Array.of(9, 0x21, 0x11, 0x01, 0, 1, 0x22, REPORT.length, 0);
const DOWN = Uint8Array.of(1);
const UP = Uint8Array.of(0);

export default defineDevice({
  vendorId: 0x1209,
  productId: 0x0001,
  speed: 'low',
  strings: { manufacturer: 'Example', product: 'One key' },
  state: (bus) => {
    const reports: Uint8Array[] = [];
    const press = () => {
      if (reports.length === 0) reports.push(DOWN, UP);
      bus.wake(KEY);
    };
    return { reports, press, timer: setInterval(press, PRESS_MILLISECONDS).unref() };
  },
  configurations: [
    {
      interfaces: [
        {
          class: 3,
          descriptors: [HID],
          endpoints: [
            {
              address: KEY,
              type: 'interrupt',
              maxPacketOctets: 8,
              interval: 10,
              onIn: (state) => state.reports.shift() ?? nak,
            },
          ],
        },
      ],
    },
  ],
  onControl: [
    {
      type: 'standard',
      direction: 'in',
      recipient: 'interface',
      request: GET_DESCRIPTOR,
      answer: (_, setup) => (setup.value === 0x2200 ? data(REPORT) : stall),
    },
    { type: 'class', direction: 'out', request: SET_IDLE, answer: () => ack },
  ],
  onDispose: (state) => clearInterval(state.timer),
});
