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
 * For tests of the stall protocol transfers can be made to end early (`short`, `take`) with a short
 * packet, a stall or an error (`end`), and each packet can carry a running number (`stamp`), so that
 * a lost or doubled packet shows. Vendor request 0x5d reads the counters: IN packets, OUT packets,
 * OUT packets whose number was not the one after the last; three 32-bit numbers, little-endian.
 */
import type { Speed } from '../../../device.ts';
import { UserError } from '../../../errors.ts';
import type {
  Bus,
  ControlRow,
  DeviceDefinition,
  EndpointDefinition,
  Fail,
  Stall,
} from '../definition.ts';
import { ack, data, fail, stall } from '../definition.ts';
import { defineKind } from '../kind.ts';
import { Sink } from './sink.ts';
import { Source } from './source.ts';

const BULK_IN = 0x81;
const INTERRUPT_IN = 0x85;

const REQUEST_WRITE = 0x5b;
const REQUEST_READ = 0x5c;
const REQUEST_COUNTERS = 0x5d;

/** wMaxPacketSize by speed and type; the isochronous interval is a millisecond each. */
const PACKET_OCTETS = {
  full: { bulk: 64, interrupt: 64, isochronous: 1023, interval: 1 },
  high: { bulk: 512, interrupt: 1024, isochronous: 1024, interval: 4 },
  super: { bulk: 1024, interrupt: 1024, isochronous: 1024, interval: 4 },
} as const;

/** A day. Timers of more than 25 would be over at once. */
const DELAY_MAX_MILLISECONDS = 24 * 60 * 60 * 1000;

interface SourceSinkState {
  /** What request 0x5b wrote last. */
  control: Buffer;
  readonly bulk: Pair;
  readonly isochronous: Pair;
  readonly interrupt: Pair;
}

export const sourceSink = defineKind({
  name: 'source-sink',
  summary: 'test device for usbtest (0525:a4a0): reads yield a pattern, writes are checked',
  options: {
    short: { type: 'count', help: 'each IN transfer ends after so many octets' },
    take: { type: 'count', help: 'each OUT transfer fails after so many octets' },
    end: {
      type: 'text',
      help: 'how they end: stall, babble or protocol-error; default a short packet (a stall for OUT)',
    },
    delay: {
      type: 'count',
      max: DELAY_MAX_MILLISECONDS,
      help: 'IN data comes only every so many milliseconds',
    },
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
    const failure = failureOf(options.end);
    const ends = { shortOctets: options.short, takeOctets: options.take, failure };
    checkEnds(PACKET_OCTETS[speed].bulk, ends);
    return define(speed, { pattern, stamp, ...ends, delayMilliseconds: options.delay ?? 0 });
  },
});

function speedOf(speed = 'high'): Speed & keyof typeof PACKET_OCTETS {
  if (speed === 'full' || speed === 'high' || speed === 'super') return speed;
  throw new UserError(`Cannot make source-sink: speed=${speed}, wanted full, high or super`);
}

function failureOf(end: string | undefined): Failure | undefined {
  switch (end) {
    case undefined:
      return undefined;
    case 'stall':
      return stall;
    case 'babble':
    case 'protocol-error':
      return fail(end);
    default:
      throw new UserError(
        `Cannot make source-sink: end=${end}, wanted stall, babble or protocol-error`,
      );
  }
}

/** A transfer that goes on after its last packet cannot have had a short one. */
function checkEnds(maxPacketOctets: number, ends: Ends): void {
  const { shortOctets, takeOctets, failure } = ends;
  if (failure === undefined) return;
  if (shortOctets === undefined && takeOctets === undefined) {
    throw new UserError('Cannot make source-sink: end without short or take, which say when');
  }
  if (shortOctets !== undefined && shortOctets % maxPacketOctets !== 0) {
    throw new UserError(
      `Cannot make source-sink: short=${shortOctets} with an end, wanted whole packets of ${maxPacketOctets}`,
    );
  }
}

/** What ends a transfer in place of a short packet. */
export type Failure = Stall | Fail;

interface Ends {
  /** Octets after which each IN transfer ends; undefined for never. */
  readonly shortOctets: number | undefined;
  /** Octets after which each OUT transfer fails; undefined for never. */
  readonly takeOctets: number | undefined;
  readonly failure: Failure | undefined;
}

export interface DataOptions extends Ends {
  readonly pattern: 0 | 1;
  readonly stamp: boolean;
  /** Time until each piece of IN data is there. */
  readonly delayMilliseconds: number;
}

function define(
  speed: keyof typeof PACKET_OCTETS,
  options: DataOptions,
): DeviceDefinition<SourceSinkState> {
  const octets = PACKET_OCTETS[speed];
  const { interval } = octets;
  const bulkPair: EndpointDefinition<SourceSinkState>[] = [
    {
      address: BULK_IN,
      type: 'bulk',
      maxPacketOctets: octets.bulk,
      onIn: ({ bulk }, octetsMax) => bulk.source.read(octetsMax),
    },
    {
      address: 0x02,
      type: 'bulk',
      maxPacketOctets: octets.bulk,
      onOut: ({ bulk }, offered) => bulk.sink.write(offered),
    },
  ];
  const otherPairs: EndpointDefinition<SourceSinkState>[] = [
    {
      address: 0x83,
      type: 'isochronous',
      maxPacketOctets: octets.isochronous,
      interval,
      onPacketIn: ({ isochronous }, octetsMax) => isochronous.source.readPacket(octetsMax),
    },
    {
      address: 0x04,
      type: 'isochronous',
      maxPacketOctets: octets.isochronous,
      interval,
      onPacketOut: ({ isochronous }, offered) => {
        isochronous.sink.write(offered);
        return ack;
      },
    },
    {
      address: INTERRUPT_IN,
      type: 'interrupt',
      maxPacketOctets: octets.interrupt,
      interval,
      onIn: ({ interrupt }, octetsMax) => interrupt.source.read(octetsMax),
    },
    {
      address: 0x06,
      type: 'interrupt',
      maxPacketOctets: octets.interrupt,
      interval,
      onOut: ({ interrupt }, offered) => interrupt.sink.write(offered),
    },
  ];
  return {
    vendorId: 0x0525,
    productId: 0xa4a0,
    speed,
    strings: { manufacturer: 'urbgate', product: 'Source and sink', serialNumber: '0001' },
    state: (bus) => ({
      control: Buffer.alloc(0),
      bulk: pair(octets.bulk, options, bus, BULK_IN),
      isochronous: pair(octets.isochronous, options),
      interrupt: pair(octets.interrupt, options, bus, INTERRUPT_IN),
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
      for (const { source, sink } of pairsOf(state)) {
        source.restart();
        sink.restart();
      }
    },
    onInterface: (state) => {
      for (const { source } of pairsOf(state)) source.restart();
    },
    onUnlink: (state, address) => {
      if (address === BULK_IN) state.bulk.source.restart();
      if (address === INTERRUPT_IN) state.interrupt.source.restart();
    },
  };
}

interface Pair {
  readonly source: Source;
  readonly sink: Sink;
}

function pair(maxPacketOctets: number, options: DataOptions, bus?: Bus, address = 0): Pair {
  const source = new Source(maxPacketOctets, options, () => bus?.wake(address));
  return { source, sink: new Sink(maxPacketOctets, options) };
}

function pairsOf(state: SourceSinkState): readonly Pair[] {
  return [state.bulk, state.isochronous, state.interrupt];
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
      const pairs = pairsOf(state);
      const sum = (numbers: number[]): number => numbers.reduce((a, b) => a + b, 0) >>> 0;
      const answer = Buffer.alloc(12);
      answer.writeUInt32LE(sum(pairs.map(({ source }) => source.packets)), 0);
      answer.writeUInt32LE(sum(pairs.map(({ sink }) => sink.packets)), 4);
      answer.writeUInt32LE(sum(pairs.map(({ sink }) => sink.gaps)), 8);
      return data(answer);
    },
  },
];
