/**
 * A serial port: CDC abstract control model (PSTN 1.2) over a `Line`, an echo or a TCP connection.
 *
 *   bulk OUT --> line.give     no room: nak, until the line has some
 *   bulk IN  <-- line.take     no octets: nak, until the line has some
 *   SET_CONTROL_LINE_STATE --> line.raise, line.drop   (DTR)
 *   SERIAL_STATE           <-- line carrier            (DCD and DSR together)
 *
 * A bulk IN transfer ends with a short packet. Octets that are a whole number of packets leave it
 * open, and the host would sit on them until more come; so when no more are there, an empty packet
 * ends it at once, and `nak` is never the answer to a transfer that has begun. It follows that an
 * unlinked transfer never takes octets with it.
 */
import type { SetupPacket } from '../../../urb.ts';
import {
  type Ack,
  ack,
  type Bus,
  type ControlRow,
  type DeviceDefinition,
  data,
  defineDevice,
  type Nak,
  nak,
  type Stall,
  stall,
  type Took,
  took,
} from '../definition.ts';
import {
  ASSOCIATION,
  CDC,
  CONTROL_INTERFACE,
  FUNCTIONAL_DESCRIPTORS,
  MISCELLANEOUS,
} from './descriptors.ts';
import type { Line, LineListener } from './line.ts';
import {
  LINE_CODING_DEFAULT,
  type LineCoding,
  parseLineCoding,
  writeLineCoding,
} from './line-coding.ts';
import { SERIAL_STATE, SerialStateQueue } from './notifications.ts';

export const ENDPOINT = { dataOut: 0x01, dataIn: 0x81, notification: 0x82 } as const;
const BULK_PACKET_OCTETS = 512;
const NOTIFICATION_PACKET_OCTETS = 16; // a SERIAL_STATE is 10: one short packet

/** bRequest of the class (PSTN 1.2, table 13). */
export const CDC_REQUEST = {
  setLineCoding: 0x20,
  getLineCoding: 0x21,
  setControlLineState: 0x22,
  sendBreak: 0x23,
} as const;

/** wValue of SET_CONTROL_LINE_STATE (PSTN 1.2, table 18). */
const CONTROL_LINE = { dtr: 0x01, rts: 0x02 } as const;

const NO_OCTETS = new Uint8Array(0);

export class SerialState implements LineListener {
  lineCoding: LineCoding = LINE_CODING_DEFAULT;
  dtr = false;
  rts = false;
  /** Milliseconds of the last SEND_BREAK; 0xffff until told otherwise, 0 for none. */
  breakMilliseconds = 0;
  readonly line: Line;
  readonly #bus: Bus;
  readonly #notifications = new SerialStateQueue();
  /** The handler of that endpoint has said nak since it last did something. */
  #inWaits = false;
  #outWaits = false;
  #notificationWaits = false;
  /** The bulk IN transfer at hand has moved whole packets and is not full. */
  #inOpen = false;

  constructor(bus: Bus, makeLine: (listener: LineListener) => Line) {
    this.#bus = bus;
    this.line = makeLine(this);
  }

  // From the host.

  bulkOut(octets: Buffer): Ack | Took | Nak {
    this.#outWaits = false;
    if (octets.length === 0) return ack;
    const count = this.line.give(octets);
    if (count > 0) return took(count);
    this.#outWaits = true;
    return nak;
  }

  bulkIn(octetsMax: number): Uint8Array | Nak {
    this.#inWaits = false;
    const octets = this.line.take(octetsMax);
    if (octets.length > 0) {
      this.#inOpen = octets.length % BULK_PACKET_OCTETS === 0 && octets.length < octetsMax;
      return data(octets);
    }
    if (this.#inOpen) {
      this.#inOpen = false;
      return data(NO_OCTETS);
    }
    this.#inWaits = true;
    return nak;
  }

  notification(): Uint8Array | Nak {
    const octets = this.#notifications.shift();
    this.#notificationWaits = octets === undefined;
    return octets === undefined ? nak : data(octets);
  }

  setControlLines(lines: number): void {
    const dtr = (lines & CONTROL_LINE.dtr) !== 0;
    this.rts = (lines & CONTROL_LINE.rts) !== 0;
    if (dtr === this.dtr) return;
    this.dtr = dtr;
    if (dtr) {
      // Older news would be taken for news of the connection that begins now.
      this.#notifications.clear();
      this.line.raise();
    } else {
      this.line.drop();
    }
  }

  /** Bus reset, new configuration, new client. */
  reset(): void {
    this.line.reset();
    this.#notifications.clear();
    this.lineCoding = LINE_CODING_DEFAULT;
    this.dtr = false;
    this.rts = false;
    this.breakMilliseconds = 0;
    this.endTransfer();
  }

  /** The bulk IN transfer at hand is gone. */
  endTransfer(): void {
    this.#inOpen = false;
  }

  // From the line. A wake may run a handler at once; the flags say which have something to gain.

  octets(): void {
    if (this.#inWaits) this.#bus.wake(ENDPOINT.dataIn);
  }

  room(): void {
    if (this.#outWaits) this.#bus.wake(ENDPOINT.dataOut);
  }

  /**
   * With DTR low the news is for a host that listens now, and is not kept: Linux stops listening
   * when a port is closed, and would take an old fall of the carrier for one of the next session.
   */
  carrier(up: boolean): void {
    if (!this.dtr && !this.#notificationWaits) return;
    this.#notifications.push(up ? SERIAL_STATE.carrier | SERIAL_STATE.ready : 0);
    this.#bus.wake(ENDPOINT.notification);
  }
}

export function defineSerial(
  makeLine: (listener: LineListener) => Line,
): DeviceDefinition<SerialState> {
  return defineDevice<SerialState>({
    vendorId: 0x1209,
    productId: 0x0005,
    speed: 'high',
    ...MISCELLANEOUS,
    strings: { manufacturer: 'urbgate', product: 'Serial port' },
    state: (bus) => new SerialState(bus, makeLine),
    configurations: [
      {
        interfaces: [
          {
            preamble: [ASSOCIATION],
            class: CDC.controlClass,
            subclass: CDC.acmSubclass,
            descriptors: FUNCTIONAL_DESCRIPTORS,
            endpoints: [
              {
                address: ENDPOINT.notification,
                type: 'interrupt',
                maxPacketOctets: NOTIFICATION_PACKET_OCTETS,
                interval: 8, // 2^7 microframes: 16 ms
                onIn: (state) => state.notification(),
              },
            ],
          },
          {
            class: CDC.dataClass,
            endpoints: [
              {
                address: ENDPOINT.dataOut,
                type: 'bulk',
                maxPacketOctets: BULK_PACKET_OCTETS,
                onOut: (state, octets) => state.bulkOut(octets),
              },
              {
                address: ENDPOINT.dataIn,
                type: 'bulk',
                maxPacketOctets: BULK_PACKET_OCTETS,
                onIn: (state, octetsMax) => state.bulkIn(octetsMax),
              },
            ],
          },
        ],
      },
    ],
    onControl: [
      {
        ...REQUEST_TO_PORT,
        direction: 'out',
        request: CDC_REQUEST.setLineCoding,
        answer: setCoding,
      },
      {
        ...REQUEST_TO_PORT,
        direction: 'in',
        request: CDC_REQUEST.getLineCoding,
        answer: (state) => data(writeLineCoding(state.lineCoding)),
      },
      onValue(CDC_REQUEST.setControlLineState, (state, value) => state.setControlLines(value)),
      onValue(CDC_REQUEST.sendBreak, (state, value) => {
        state.breakMilliseconds = value;
      }),
    ],
    onReset: (state) => state.reset(),
    onClearHalt: (state) => state.endTransfer(),
    onUnlink: (state) => state.endTransfer(),
    onDispose: (state) => state.line.close(),
  });
}

/** All requests of the class go to the communications interface. */
const REQUEST_TO_PORT = {
  type: 'class',
  recipient: 'interface',
  index: CONTROL_INTERFACE,
} as const;

function setCoding(state: SerialState, _: SetupPacket, octets: Buffer): Ack | Stall {
  const coding = parseLineCoding(octets);
  if (coding === undefined) return stall;
  state.lineCoding = coding;
  return ack;
}

/** A request that says everything in wValue. */
function onValue(
  request: number,
  act: (state: SerialState, value: number) => void,
): ControlRow<SerialState> {
  return {
    ...REQUEST_TO_PORT,
    direction: 'out',
    request,
    answer: (state, setup) => {
      act(state, setup.value);
      return ack;
    },
  };
}
