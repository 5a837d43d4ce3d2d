/**
 * `virtual:source-sink`: endless data to read, and a place for data to go, as the kernel's
 * `usbtest` and `testusb` expect of "gadget zero".
 *
 * The contract stands in Linux drivers/usb/misc/usbtest.c (0525:a4a0 is `gz_info`) and
 * drivers/usb/gadget/function/f_sourcesink.c: alternate setting 0 has a bulk pair; setting 1 has
 * it too, and an isochronous and an interrupt pair (`modprobe usbtest alt=1`). What is written is
 * checked against the pattern; a mismatch halts the endpoint. Vendor requests 0x5b and 0x5c write
 * and read back a buffer.
 *
 * For tests of the stall protocol an IN transfer can be made to end early (`short`), and each
 * packet can carry a running number (`stamp`), so that a lost or doubled packet shows. Vendor
 * request 0x5d reads the counters: IN packets, OUT packets, OUT packets whose number was not the
 * one after the last; three 32-bit numbers, little-endian.
 */
import type { Speed } from '../../../device.ts';
import { UserError } from '../../../errors.ts';
import type { ControlRow, DeviceDefinition, EndpointDefinition } from '../definition.ts';
import { ack, data, stall } from '../definition.ts';
import { defineKind } from '../kind.ts';
import { Sink } from './sink.ts';
import { Source } from './source.ts';

const REQUEST_WRITE = 0x5b;
const REQUEST_READ = 0x5c;
const REQUEST_COUNTERS = 0x5d;

/** wMaxPacketSize by speed and type; the isochronous interval is a millisecond each. */
const PACKET_OCTETS = {
  full: { bulk: 64, interrupt: 64, isochronous: 1023, interval: 1 },
  high: { bulk: 512, interrupt: 1024, isochronous: 1024, interval: 4 },
  super: { bulk: 1024, interrupt: 1024, isochronous: 1024, interval: 4 },
} as const;

interface SourceSinkState {
  /** What request 0x5b wrote last. */
  control: Buffer;
  readonly sources: readonly Source[];
  readonly sinks: readonly Sink[];
}

export const sourceSink = defineKind({
  name: 'source-sink',
  summary: 'test device for usbtest (0525:a4a0): reads yield a pattern, writes are checked',
  options: {
    short: { type: 'count', help: 'each IN transfer ends short after so many octets' },
    stamp: { type: 'flag', help: 'each packet begins with a running 32-bit number' },
    pattern: { type: 'count', help: '0: zeros; 1: position in the packet modulo 63; default 0' },
    speed: { type: 'text', help: 'full, high or super; default high' },
  },
  define: (options) => {
    const speed = speedOf(options.speed);
    const pattern = options.pattern ?? 0;
    if (pattern !== 0 && pattern !== 1) {
      throw new UserError(`Cannot make source-sink: pattern=${pattern}, wanted 0 or 1`);
    }
    const stamp = options.stamp ?? false;
    return define(speed, { pattern, stamp, shortOctets: options.short });
  },
});

function speedOf(speed = 'high'): Speed & keyof typeof PACKET_OCTETS {
  if (speed === 'full' || speed === 'high' || speed === 'super') return speed;
  throw new UserError(`Cannot make source-sink: speed=${speed}, wanted full, high or super`);
}

export interface DataOptions {
  readonly pattern: 0 | 1;
  readonly stamp: boolean;
  /** Octets after which each IN transfer ends; undefined for never. */
  readonly shortOctets: number | undefined;
}

function define(
  speed: keyof typeof PACKET_OCTETS,
  options: DataOptions,
): DeviceDefinition<SourceSinkState> {
  const octets = PACKET_OCTETS[speed];
  const interval = octets.interval;
  // One source and one sink a pair: bulk, isochronous, interrupt.
  const sizes = [octets.bulk, octets.isochronous, octets.interrupt] as const;
  const [bulk, isochronous, interrupt] = sizes.map((maxPacketOctets) => ({
    source: new Source(maxPacketOctets, options),
    sink: new Sink(maxPacketOctets, options),
  })) as [Pair, Pair, Pair];
  const bulkPair: EndpointDefinition<SourceSinkState>[] = [
    {
      address: 0x81,
      type: 'bulk',
      maxPacketOctets: octets.bulk,
      onIn: (_, octetsMax) => bulk.source.read(octetsMax),
    },
    {
      address: 0x02,
      type: 'bulk',
      maxPacketOctets: octets.bulk,
      onOut: (_, taken) => (bulk.sink.write(taken) ? ack : stall),
    },
  ];
  const otherPairs: EndpointDefinition<SourceSinkState>[] = [
    {
      address: 0x83,
      type: 'isochronous',
      maxPacketOctets: octets.isochronous,
      interval,
      onPacketIn: (_, octetsMax) => isochronous.source.readPacket(octetsMax),
    },
    {
      address: 0x04,
      type: 'isochronous',
      maxPacketOctets: octets.isochronous,
      interval,
      onPacketOut: (_, taken) => {
        isochronous.sink.write(taken);
        return ack;
      },
    },
    {
      address: 0x85,
      type: 'interrupt',
      maxPacketOctets: octets.interrupt,
      interval,
      onIn: (_, octetsMax) => interrupt.source.read(octetsMax),
    },
    {
      address: 0x06,
      type: 'interrupt',
      maxPacketOctets: octets.interrupt,
      interval,
      onOut: (_, taken) => (interrupt.sink.write(taken) ? ack : stall),
    },
  ];
  return {
    vendorId: 0x0525,
    productId: 0xa4a0,
    speed,
    strings: { manufacturer: 'urbgate', product: 'Source and sink', serialNumber: '0001' },
    state: () => ({
      control: Buffer.alloc(0),
      sources: [bulk.source, isochronous.source, interrupt.source],
      sinks: [bulk.sink, isochronous.sink, interrupt.sink],
    }),
    configurations: [
      {
        selfPowered: true,
        interfaces: [
          { class: 0xff, endpoints: bulkPair },
          { class: 0xff, alternate: 1, endpoints: [...bulkPair, ...otherPairs] },
        ],
      },
    ],
    onControl: CONTROL_ROWS,
    onReset: (state) => {
      for (const one of [...state.sources, ...state.sinks]) one.restart();
    },
  };
}

interface Pair {
  readonly source: Source;
  readonly sink: Sink;
}

const CONTROL_ROWS: readonly ControlRow<SourceSinkState>[] = [
  {
    direction: 'out',
    type: 'vendor',
    recipient: 'device',
    request: REQUEST_WRITE,
    answer: (state, setup, octets) => {
      if (setup.value !== 0 || setup.index !== 0) return stall;
      state.control = Buffer.from(octets);
      return ack;
    },
  },
  {
    direction: 'in',
    type: 'vendor',
    recipient: 'device',
    request: REQUEST_READ,
    answer: (state, setup) => {
      if (setup.value !== 0 || setup.index !== 0) return stall;
      const answer = Buffer.alloc(setup.length);
      state.control.copy(answer);
      return data(answer);
    },
  },
  {
    direction: 'in',
    type: 'vendor',
    recipient: 'device',
    request: REQUEST_COUNTERS,
    answer: (state) => {
      const sum = (numbers: number[]): number => numbers.reduce((a, b) => a + b, 0) >>> 0;
      const answer = Buffer.alloc(12);
      answer.writeUInt32LE(sum(state.sources.map((source) => source.packets)), 0);
      answer.writeUInt32LE(sum(state.sinks.map((sink) => sink.packets)), 4);
      answer.writeUInt32LE(sum(state.sinks.map((sink) => sink.gaps)), 8);
      return data(answer);
    },
  },
];
