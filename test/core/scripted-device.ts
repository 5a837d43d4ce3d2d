/** A virtual device that does what a test tells it, and writes down what is asked of it. */
import type {
  Ack,
  Bus,
  DeviceDefinition,
  EndpointDefinition,
  Fail,
  Nak,
  Stall,
  Took,
} from '../../src/core/devices/virtual/definition.ts';
import { ack, nak, stall } from '../../src/core/devices/virtual/definition.ts';

export type InAnswer = Uint8Array | Nak | Stall | Fail | Error;
export type OutAnswer = Ack | Took | Nak | Stall | Fail | Error;

export const BULK_IN = 0x81;
export const BULK_OUT = 0x02;
export const INTERRUPT_IN = 0x83;
export const INTERRUPT_OUT = 0x04;
export const ISO_IN = 0x85;
export const ISO_OUT = 0x06;
/** In configuration 2 and in alternate setting 1 of interface 0. */
export const OTHER_IN = 0x87;
export const PACKET_OCTETS = 64;

/** Vendor requests: IN answers from `answers` of address 0x80, OUT from those of 0x00. */
export const VENDOR_IN = 0x21;
export const VENDOR_OUT = 0x22;

export class Script {
  readonly bus: Bus;
  /** Answers to come, by endpoint address; an endpoint without one naks (OUT: takes all). */
  readonly #answers = new Map<number, (InAnswer | OutAnswer)[]>();
  /** What was asked, in order: "81 in 512", "02 out 3", "reset", ... */
  readonly log: string[] = [];
  /** Octets that OUT handlers were offered, in order. */
  readonly offered: Buffer[] = [];
  /** Runs inside the next handler call of an endpoint. */
  readonly inside = new Map<number, () => void>();
  onUnlink: () => void = () => {};
  /** What `onRelease` waits for. */
  released: Promise<void> | undefined;

  constructor(bus: Bus) {
    this.bus = bus;
  }

  /** Answers for the next calls of a handler, in order. */
  answer(address: number, ...answers: (InAnswer | OutAnswer)[]): void {
    const list = this.#answers.get(address) ?? [];
    list.push(...answers);
    this.#answers.set(address, list);
  }

  /** Answers as above, and wakes the endpoint. */
  wakeWith(address: number, ...answers: (InAnswer | OutAnswer)[]): void {
    this.answer(address, ...answers);
    this.bus.wake(address & 15 ? address : 0);
  }

  next<A>(address: number, otherwise: A): A {
    const inside = this.inside.get(address);
    this.inside.delete(address);
    inside?.();
    const answer = this.#answers.get(address)?.shift() ?? otherwise;
    if (answer instanceof Error) throw answer;
    return answer as A;
  }

  take(): string[] {
    return this.log.splice(0);
  }
}

const name = (address: number): string => address.toString(16).padStart(2, '0');

const onIn = (address: number) => (script: Script, octetsMax: number) => {
  script.log.push(`${name(address)} in ${octetsMax}`);
  return script.next<Uint8Array | Nak | Stall | Fail>(address, nak);
};
const onOut = (address: number) => (script: Script, octets: Buffer) => {
  script.log.push(`${name(address)} out ${octets.length}`);
  script.offered.push(Buffer.from(octets));
  return script.next<Ack | Took | Nak | Stall | Fail>(address, ack);
};

function endpoints(paced: boolean): EndpointDefinition<Script>[] {
  const maxPacketOctets = PACKET_OCTETS;
  return [
    { address: BULK_IN, type: 'bulk', maxPacketOctets, onIn: onIn(BULK_IN) },
    { address: BULK_OUT, type: 'bulk', maxPacketOctets, onOut: onOut(BULK_OUT) },
    {
      address: INTERRUPT_IN,
      type: 'interrupt',
      interval: 1,
      maxPacketOctets,
      onIn: onIn(INTERRUPT_IN),
    },
    {
      address: INTERRUPT_OUT,
      type: 'interrupt',
      interval: 1,
      maxPacketOctets,
      onOut: onOut(INTERRUPT_OUT),
    },
    {
      address: ISO_IN,
      type: 'isochronous',
      interval: 1,
      maxPacketOctets,
      paced,
      onPacketIn: (script, octetsMax) => {
        script.log.push(`${name(ISO_IN)} packet ${octetsMax}`);
        return script.next<Uint8Array | Fail>(ISO_IN, Buffer.alloc(0));
      },
    },
    {
      address: ISO_OUT,
      type: 'isochronous',
      interval: 1,
      maxPacketOctets,
      paced,
      onPacketOut: (script, octets) => {
        script.log.push(`${name(ISO_OUT)} packet ${octets.length}`);
        script.offered.push(Buffer.from(octets));
        return script.next<Ack | Fail>(ISO_OUT, ack);
      },
    },
  ];
}

/**
 * Interface 0: alternate setting 0 has the endpoints above, 1 has BULK_IN as another endpoint and
 * OTHER_IN, 2 has ISO_IN's number as bulk. Interface 1 has none. Configuration 2 has OTHER_IN alone.
 */
export function scriptedDevice({ paced = false } = {}): DeviceDefinition<Script> {
  const other: EndpointDefinition<Script> = {
    address: OTHER_IN,
    type: 'bulk',
    maxPacketOctets: PACKET_OCTETS,
    onIn: onIn(OTHER_IN),
  };
  const bulkIn: EndpointDefinition<Script> = {
    address: BULK_IN,
    type: 'bulk',
    maxPacketOctets: PACKET_OCTETS,
    onIn: onIn(BULK_IN),
  };
  return {
    vendorId: 0x1209,
    productId: 1,
    deviceVersion: 0x0203,
    speed: 'full',
    strings: { manufacturer: 'urbgate', product: 'Scripted', serialNumber: '7' },
    state: (bus) => new Script(bus),
    configurations: [
      {
        selfPowered: true,
        remoteWakeup: true,
        interfaces: [
          { class: 0xff, subclass: 1, protocol: 2, label: 'zero', endpoints: endpoints(paced) },
          { class: 0xff, alternate: 1, endpoints: [bulkIn, other] },
          {
            class: 0xff,
            alternate: 2,
            endpoints: [
              { address: ISO_IN, type: 'bulk', maxPacketOctets: PACKET_OCTETS, onIn: onIn(ISO_IN) },
            ],
          },
          { class: 3, endpoints: [] },
        ],
      },
      { interfaces: [{ class: 0xff, endpoints: [other] }] },
    ],
    onControl: [
      {
        direction: 'in',
        type: 'vendor',
        request: VENDOR_IN,
        answer: (script, setup) => {
          script.log.push(`vendor in ${setup.length}`);
          return script.next<Uint8Array | Nak | Stall | Fail>(0x80, nak);
        },
      },
      {
        direction: 'out',
        type: 'vendor',
        recipient: 'device',
        request: VENDOR_OUT,
        index: 0,
        answer: (script, _, octets) => {
          script.log.push(`vendor out ${octets.length}`);
          script.offered.push(Buffer.from(octets));
          return script.next<Ack | Nak | Stall | Fail>(0x00, ack);
        },
      },
      { direction: 'out', type: 'standard', request: 77, answer: () => stall },
    ],
    onReset: (script) => void script.log.push('reset'),
    onInterface: (script, number, alternate) =>
      void script.log.push(`interface ${number} ${alternate}`),
    onClearHalt: (script, address) => void script.log.push(`clear-halt ${name(address)}`),
    onUnlink: (script, address) => {
      script.log.push(`unlink ${name(address)}`);
      script.onUnlink();
    },
    onRelease: (script) => {
      script.log.push('release');
      return script.released;
    },
    onDispose: (script) => void script.log.push('dispose'),
  };
}
