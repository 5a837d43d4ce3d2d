/** A virtual device whose data shows whether each octet is in its place. */

import type { UsbDevice } from '../../src/core/device.ts';
import { ack, data, defineDevice } from '../../src/core/devices/virtual/definition.ts';
import { VirtualDevice } from '../../src/core/devices/virtual/virtual-device.ts';

/** Octets of a stream in which every four say where they are. */
export function numbered(from: number, octets: number): Buffer {
  return Buffer.from(Uint32Array.from({ length: octets / 4 }, (_, n) => from + n * 4).buffer);
}

/** A device that gives that stream, and keeps the packets that it is sent. */
export function recorder(written: Buffer[]): UsbDevice {
  const bulk = { type: 'bulk', maxPacketOctets: 512 } as const;
  const definition = defineDevice({
    vendorId: 0x1209,
    productId: 0x0001,
    speed: 'high',
    state: () => ({ given: 0 }),
    configurations: [
      {
        interfaces: [
          {
            class: 0xff,
            endpoints: [
              {
                ...bulk,
                address: 0x81,
                onIn: (state, octetsMax) => {
                  state.given += octetsMax;
                  return data(numbered(state.given - octetsMax, octetsMax));
                },
              },
              {
                ...bulk,
                address: 0x02,
                onOut: (_, octets) => {
                  for (let at = 0; at < octets.length; at += bulk.maxPacketOctets) {
                    written.push(Buffer.from(octets.subarray(at, at + bulk.maxPacketOctets)));
                  }
                  return ack;
                },
              },
            ],
          },
        ],
      },
    ],
  });
  return new VirtualDevice(definition);
}
