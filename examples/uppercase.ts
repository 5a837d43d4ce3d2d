/** Sends back every bulk transfer in capital letters, one at a time. */
import { ack, type Bus, data, defineDevice, nak } from '../src/core/devices/virtual/definition.ts';

const OUT = 0x01;
const IN = 0x81;
const upper = (octet: number): number => (octet >= 0x61 && octet <= 0x7a ? octet - 0x20 : octet);
const BULK = { type: 'bulk', maxPacketOctets: 512 } as const;

export default defineDevice({
  vendorId: 0x1209,
  productId: 0x0003,
  speed: 'high',
  strings: { manufacturer: 'Example', product: 'Uppercase' },
  state: (bus: Bus) => ({ bus, answer: null as Buffer | null }),
  configurations: [
    {
      interfaces: [
        {
          class: 0xff,
          endpoints: [
            {
              ...BULK,
              address: OUT,
              onOut: (state, octets) => {
                if (octets.length === 0) return ack; // the empty packet that ends whole ones
                if (state.answer !== null) return nak; // until the host has read it
                state.answer = Buffer.from(octets.map(upper));
                state.bus.wake(IN);
                return ack;
              },
            },
            {
              ...BULK,
              address: IN,
              onIn: (state, octetsMax) => {
                if (state.answer === null) return nak;
                const octets = state.answer.subarray(0, octetsMax);
                const rest = state.answer.subarray(octets.length);
                // Whole packets leave the transfer open; an empty one ends it then.
                const whole = octets.length > 0 && octets.length % BULK.maxPacketOctets === 0;
                state.answer = rest.length > 0 || whole ? rest : null;
                if (state.answer === null) state.bus.wake(OUT);
                return data(octets);
              },
            },
          ],
        },
      ],
    },
  ],
  onReset: (state) => {
    state.answer = null;
  },
});
