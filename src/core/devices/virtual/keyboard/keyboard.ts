/**
 * A HID boot keyboard that types a text.
 *
 * Source: HID 1.11, 7.2 (requests) and appendix F (boot keyboards). The host polls the interrupt
 * endpoint; the keyboard answers with a report when there is one and with `nak` otherwise:
 *
 *   first poll --wait--> press, release --delay--> press, release ... nothing but idle reports
 *
 * The text is typed once for each client, and begins some time after the first poll rather than
 * with it: Linux polls 50 ms before it listens (usbhid_open in drivers/hid/usbhid/hid-core.c drops
 * what comes earlier), and other hosts have doors that open late too.
 */
import { type Clock, systemClock } from '../../../clock.ts';
import { REQUEST } from '../../../descriptors.ts';
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
} from '../definition.ts';
import {
  HID,
  HID_DESCRIPTOR,
  HID_DESCRIPTOR_TYPE,
  INPUT_OCTETS,
  OUTPUT_OCTETS,
  REPORT_DESCRIPTOR,
} from './descriptors.ts';
import type { Stroke } from './keymap.ts';
import type { LedLog } from './led-log.ts';
import { Typist } from './typist.ts';

export const INTERRUPT_IN = 0x81;

/** bRequest of the class (HID 1.11, 7.2). */
export const HID_REQUEST = {
  getReport: 0x01,
  getIdle: 0x02,
  getProtocol: 0x03,
  setReport: 0x09,
  setIdle: 0x0a,
  setProtocol: 0x0b,
} as const;

/** High octet of wValue in GET_REPORT and SET_REPORT (HID 1.11, 7.2.1). */
export const REPORT_TYPE = { input: 1, output: 2, feature: 3 } as const;

/** wValue of SET_PROTOCOL (HID 1.11, 7.2.5); both protocols have the same reports here. */
export const PROTOCOL = { boot: 0, report: 1 } as const;

/** HID 1.11, 7.2.4: the duration is counted in units of 4 ms; 500 ms is what keyboards start with. */
const IDLE_UNIT_MILLISECONDS = 4;
const IDLE_DEFAULT_UNITS = 500 / IDLE_UNIT_MILLISECONDS;

export interface KeyboardOptions {
  readonly strokes: readonly Stroke[];
  /** From the first poll to the first key. */
  readonly waitMilliseconds: number;
  /** From a release to the next press. */
  readonly delayMilliseconds: number;
  readonly ledLog?: LedLog;
}

export class KeyboardState {
  /** What the host has set last; see LED_NAMES for the bits. */
  leds = 0;
  protocol: number = PROTOCOL.report;
  /** 0 is infinite: a report only when something changes. */
  idleUnits = IDLE_DEFAULT_UNITS;
  /** The report sent last: what is down now. Never changed in place. */
  report: Uint8Array = new Uint8Array(INPUT_OCTETS);
  readonly #options: KeyboardOptions;
  readonly #bus: Bus;
  readonly #clock: Clock;
  readonly #typist: Typist;
  #sentAt = 0;
  /** When the next key may be typed; null until the host has polled. */
  #typeAt: number | null = null;
  #cancelTimer: (() => void) | null = null;

  constructor(options: KeyboardOptions, bus: Bus, clock: Clock) {
    this.#options = options;
    this.#bus = bus;
    this.#clock = clock;
    this.#typist = new Typist(options.strokes);
  }

  poll(): Uint8Array | Nak {
    const now = this.#clock.now();
    if (this.#typeAt === null) {
      this.#typeAt = now + this.#options.waitMilliseconds;
      this.#sentAt = now;
    }
    if (!this.#typist.done && now >= this.#typeAt) {
      const report = this.#typist.next();
      if (!this.#typist.keyDown) this.#typeAt = now + this.#options.delayMilliseconds;
      return this.#send(report, now);
    }
    const idleAt = this.#idleAt;
    if (now >= idleAt) return this.#send(this.report, now);
    this.#wakeAt(Math.min(idleAt, this.#typist.done ? Number.POSITIVE_INFINITY : this.#typeAt));
    return nak;
  }

  setIdle(units: number): void {
    this.idleUnits = units;
    this.#bus.wake(INTERRUPT_IN); // a pending poll has another deadline now
  }

  setLeds(leds: number): void {
    this.leds = leds;
    this.#options.ledLog?.append(leds);
  }

  /** A bus reset restores the defaults; what is typed is typed. */
  reset(): void {
    this.protocol = PROTOCOL.report;
    this.idleUnits = IDLE_DEFAULT_UNITS;
    this.leds = 0;
    this.#stopTimer();
  }

  /** The next client gets the whole text, and no key that is down. */
  release(): void {
    this.reset();
    this.#typist.rewind();
    this.#typeAt = null;
    this.report = new Uint8Array(INPUT_OCTETS);
  }

  async dispose(): Promise<void> {
    this.#stopTimer();
    await this.#options.ledLog?.close();
  }

  /** When the current report is due again although nothing has changed. */
  get #idleAt(): number {
    if (this.idleUnits === 0) return Number.POSITIVE_INFINITY;
    return this.#sentAt + this.idleUnits * IDLE_UNIT_MILLISECONDS;
  }

  #send(report: Uint8Array, now: number): Uint8Array {
    this.report = report;
    this.#sentAt = now;
    return data(report);
  }

  #wakeAt(time: number): void {
    this.#stopTimer();
    if (time === Number.POSITIVE_INFINITY) return;
    this.#cancelTimer = this.#clock.after(time - this.#clock.now(), () => {
      this.#cancelTimer = null;
      this.#bus.wake(INTERRUPT_IN);
    });
  }

  #stopTimer(): void {
    this.#cancelTimer?.();
    this.#cancelTimer = null;
  }
}

export function defineKeyboard(
  options: KeyboardOptions,
  clock: Clock = systemClock,
): DeviceDefinition<KeyboardState> {
  return defineDevice<KeyboardState>({
    vendorId: 0x1209,
    productId: 0x0004,
    speed: 'full',
    strings: { manufacturer: 'urbgate', product: 'Keyboard' },
    state: (bus) => new KeyboardState(options, bus, clock),
    configurations: [
      {
        interfaces: [
          {
            class: HID.class,
            subclass: HID.bootSubclass,
            protocol: HID.keyboardProtocol,
            descriptors: [HID_DESCRIPTOR],
            endpoints: [
              {
                address: INTERRUPT_IN,
                type: 'interrupt',
                maxPacketOctets: INPUT_OCTETS,
                interval: 10,
                onIn: (state) => state.poll(),
              },
            ],
          },
        ],
      },
    ],
    onControl: [
      onGet('standard', REQUEST.getDescriptor, (_, setup) => descriptor(setup)),
      onGet('class', HID_REQUEST.getReport, (state, setup) => getReport(state, setup)),
      onGet('class', HID_REQUEST.getIdle, (state) => Uint8Array.of(state.idleUnits)),
      onGet('class', HID_REQUEST.getProtocol, (state) => Uint8Array.of(state.protocol)),
      onSet(HID_REQUEST.setReport, setReport),
      onSet(HID_REQUEST.setIdle, (state, setup) => {
        if ((setup.value & 0xff) !== 0) return stall; // report id: there are none
        state.setIdle(setup.value >> 8);
        return ack;
      }),
      onSet(HID_REQUEST.setProtocol, (state, setup) => {
        if (setup.value > PROTOCOL.report) return stall;
        state.protocol = setup.value;
        return ack;
      }),
    ],
    onReset: (state) => state.reset(),
    onRelease: (state) => state.release(),
    onDispose: (state) => state.dispose(),
  });
}

/** HID 1.11, 7.1.1: the class descriptors are asked for at the interface. */
function descriptor(setup: SetupPacket): Uint8Array | Stall {
  if (setup.value === HID_DESCRIPTOR_TYPE.hid << 8) return data(HID_DESCRIPTOR);
  if (setup.value === HID_DESCRIPTOR_TYPE.report << 8) return data(REPORT_DESCRIPTOR);
  return stall;
}

function getReport(state: KeyboardState, setup: SetupPacket): Uint8Array | Stall {
  if (setup.value === REPORT_TYPE.input << 8) return data(state.report);
  if (setup.value === REPORT_TYPE.output << 8) return Uint8Array.of(state.leds);
  return stall;
}

function setReport(state: KeyboardState, setup: SetupPacket, octets: Buffer): Ack | Stall {
  const [leds] = octets;
  if (setup.value !== REPORT_TYPE.output << 8 || octets.length !== OUTPUT_OCTETS) return stall;
  state.setLeds((leds ?? 0) & 0x1f); // bits 7..5 are padding
  return ack;
}

/** All requests of the class go to the one interface. */
const INTERFACE = { recipient: 'interface', index: 0 } as const;

type GetRow = Extract<ControlRow<KeyboardState>, { direction: 'in' }>;
type SetRow = Extract<ControlRow<KeyboardState>, { direction: 'out' }>;

function onGet(type: GetRow['type'], request: number, answer: GetRow['answer']): GetRow {
  return { ...INTERFACE, direction: 'in', type, request, answer };
}

function onSet(request: number, answer: SetRow['answer']): SetRow {
  return { ...INTERFACE, direction: 'out', type: 'class', request, answer };
}
