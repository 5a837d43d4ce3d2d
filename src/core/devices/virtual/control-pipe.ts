/**
 * Endpoint 0 of a virtual device: standard requests (USB 2.0, 9.4; USB 3.2, 9.4), the device's
 * configuration and alternate settings, and the rows of its definition for everything else.
 *
 * A row of the definition goes before the engine's own answer, so that a device may replace any
 * standard request. What nobody answers is stalled; a stall of endpoint 0 ends with the request.
 */
import { assert } from '../../assert.ts';
import { controlEffect } from '../../control-effect.ts';
import {
  type AlternateSetting,
  controlEndpoint,
  DESCRIPTOR,
  ENDPOINT_HALT,
  parseConfiguration,
  REQUEST,
} from '../../descriptors.ts';
import type { DeviceInfo, EndpointInfo } from '../../device.ts';
import type { SetupPacket, Urb } from '../../urb.ts';
import type {
  Ack,
  ControlRow,
  DeviceDefinition,
  EndpointDefinition,
  Fail,
  InterfaceDefinition,
  Nak,
  Stall,
} from './definition.ts';
import { ack, stall } from './definition.ts';
import {
  bosDescriptor,
  configurationDescriptor,
  controlPacketOctets,
  deviceDescriptor,
  isSuper,
  qualifierDescriptor,
  StringTable,
} from './descriptors.ts';
import type { EndpointRun } from './packets.ts';
import type { EndpointPair } from './virtual-device.ts';

/** What the control pipe may do to the rest of the device. */
export interface EndpointControl<S> {
  endpoint(address: number): EndpointRun<S> | undefined;
  replaceEndpoints(gone: readonly EndpointInfo[], come: readonly EndpointPair<S>[]): void;
  halt(address: number): void;
}

interface Configuration<S> {
  readonly value: number;
  readonly octets: Buffer;
  readonly attributes: number;
  /** Parsed settings, in the order of `definitions`. */
  readonly alternates: readonly AlternateSetting[];
  readonly definitions: readonly InterfaceDefinition<S>[];
}

type Answer = Uint8Array | Ack | Nak | Stall | Fail;

const TYPES = ['standard', 'class', 'vendor', 'reserved'] as const;
const RECIPIENTS = ['device', 'interface', 'endpoint', 'other'] as const;

/** Feature selectors (USB 2.0, table 9-6; USB 3.2, table 9-7). */
const FEATURE = { remoteWakeup: 1, u1Enable: 48, u2Enable: 49 } as const;

export class ControlPipe<S> {
  readonly endpoint: EndpointInfo;
  readonly #definition: DeviceDefinition<S>;
  readonly #state: S;
  readonly #endpoints: EndpointControl<S>;
  readonly #strings = new StringTable();
  readonly #device: Buffer;
  readonly #configurations: readonly Configuration<S>[];
  /** The active configuration, or null in the address state. */
  #active: Configuration<S> | null = null;
  /** Chosen alternate setting by interface number. */
  readonly #chosen = new Map<number, number>();
  #remoteWakeup = false;

  constructor(definition: DeviceDefinition<S>, state: S, endpoints: EndpointControl<S>) {
    this.#definition = definition;
    this.#state = state;
    this.#endpoints = endpoints;
    this.endpoint = controlEndpoint(controlPacketOctets(definition.speed));
    this.#device = deviceDescriptor(definition, this.#strings);
    this.#configurations = definition.configurations.map((configuration, place) => {
      const value = configuration.value ?? place + 1;
      const octets = configurationDescriptor(configuration, value, definition.speed, this.#strings);
      const { alternates, attributes } = parseConfiguration(octets, definition.speed);
      const isWhole = alternates.length === configuration.interfaces.length;
      assert(isWhole, 'Cannot define a device: a setting is there twice, or too many are');
      return { value, octets, attributes, alternates, definitions: configuration.interfaces };
    });
  }

  get info(): DeviceInfo {
    const definition = this.#definition;
    const shown = this.#shown;
    const { manufacturer, product } = definition.strings ?? {};
    return {
      speed: definition.speed,
      vendorId: definition.vendorId,
      productId: definition.productId,
      deviceVersion: definition.deviceVersion ?? 0x0100,
      class: definition.class ?? 0,
      subclass: definition.subclass ?? 0,
      protocol: definition.protocol ?? 0,
      configurationValue: shown?.value ?? 0,
      configurationCount: this.#configurations.length,
      interfaces: (shown?.alternates ?? []).filter((one) => one.alternate === 0),
      label: [manufacturer, product].filter(Boolean).join(' '),
    };
  }

  /** Back to the state after a bus reset: no configuration. */
  reset(): void {
    this.#configure(null);
    this.#remoteWakeup = false;
  }

  /** Works on a control URB; false if it stays pending until endpoint 0 is woken. */
  serve(urb: Urb): boolean {
    const setup = urb.setup;
    if (setup === null) throw new TypeError('Cannot serve a control URB: it has no setup packet');
    const answer = this.#answer(setup, urb.dataOut);
    if (answer instanceof Uint8Array) {
      urb.dataIn = answer.length > setup.length ? answer.subarray(0, setup.length) : answer;
      urb.actualOctets = urb.dataIn.length;
      const short = urb.shortNotOk && urb.actualOctets < urb.octets;
      urb.status = short ? 'short' : 'ok';
      return true;
    }
    switch (answer.answer) {
      case 'nak':
        return false;
      case 'ack':
        urb.actualOctets = urb.in ? 0 : urb.octets;
        urb.status = 'ok';
        return true;
      case 'stall':
        urb.status = 'stall';
        return true;
      case 'fail':
        urb.status = answer.status;
        return true;
    }
  }

  get #shown(): Configuration<S> | undefined {
    return this.#active ?? this.#configurations[0];
  }

  #answer(setup: SetupPacket, dataOut: Buffer): Answer {
    const row = this.#definition.onControl?.find((candidate) => matches(candidate, setup));
    if (row !== undefined) {
      return row.direction === 'in'
        ? row.answer(this.#state, setup)
        : row.answer(this.#state, setup, dataOut);
    }
    if (TYPES[(setup.requestType >> 5) & 3] !== 'standard') {
      return controlEffect(setup).type === 'reset' ? this.#portReset() : stall;
    }
    const isIn = (setup.requestType & 0x80) !== 0;
    return isIn ? this.#answerIn(setup) : this.#answerOut(setup);
  }

  #answerIn(setup: SetupPacket): Answer {
    switch (setup.request) {
      case REQUEST.getDescriptor:
        return recipientOf(setup) === 'device' ? this.#descriptor(setup) : stall;
      case REQUEST.getStatus:
        return this.#status(setup);
      case REQUEST.getConfiguration:
        return Buffer.from([this.#active?.value ?? 0]);
      case REQUEST.getInterface: {
        const chosen = this.#chosen.get(setup.index);
        return chosen === undefined ? stall : Buffer.from([chosen]);
      }
      default:
        return stall;
    }
  }

  #answerOut(setup: SetupPacket): Answer {
    switch (setup.request) {
      case REQUEST.setConfiguration:
        return this.#setConfiguration(setup.value & 0xff);
      case REQUEST.setInterface:
        return this.#setInterface(setup.index & 0xff, setup.value & 0xff);
      case REQUEST.clearFeature:
      case REQUEST.setFeature:
        return this.#feature(setup, setup.request === REQUEST.setFeature);
      case REQUEST.setAddress:
        return ack; // the client's side gives addresses; nothing here depends on one
      case REQUEST.setSel:
      case REQUEST.setIsochronousDelay:
        return isSuper(this.#definition.speed) ? ack : stall;
      default:
        return stall;
    }
  }

  #descriptor(setup: SetupPacket): Answer {
    const index = setup.value & 0xff;
    switch (setup.value >> 8) {
      case DESCRIPTOR.device:
        return this.#device;
      case DESCRIPTOR.configuration:
        return this.#configurations[index]?.octets ?? stall;
      case DESCRIPTOR.string:
        return this.#strings.descriptor(index) ?? stall;
      case DESCRIPTOR.deviceQualifier:
        return this.#definition.speed === 'high' ? qualifierDescriptor(this.#device) : stall;
      case DESCRIPTOR.otherSpeedConfiguration: {
        const octets = this.#configurations[index]?.octets;
        if (octets === undefined || this.#definition.speed !== 'high') return stall;
        const other = Buffer.from(octets);
        other[1] = DESCRIPTOR.otherSpeedConfiguration;
        return other;
      }
      case DESCRIPTOR.bos:
        return isSuper(this.#definition.speed) ? bosDescriptor(this.#definition.speed) : stall;
      default:
        return stall;
    }
  }

  /** USB 2.0, 9.4.5. */
  #status(setup: SetupPacket): Answer {
    switch (recipientOf(setup)) {
      case 'device': {
        const selfPowered = ((this.#shown?.attributes ?? 0) >> 6) & 1;
        return Buffer.from([selfPowered | (this.#remoteWakeup ? 2 : 0), 0]);
      }
      case 'interface':
        return this.#chosen.has(setup.index & 0xff) ? Buffer.from([0, 0]) : stall;
      case 'endpoint': {
        const address = setup.index & 0x8f;
        if ((address & 15) === 0) return Buffer.from([0, 0]);
        const run = this.#endpoints.endpoint(address);
        return run === undefined ? stall : Buffer.from([run.halted ? 1 : 0, 0]);
      }
      default:
        return stall;
    }
  }

  /** USB 2.0, 9.4.1 and 9.4.9. */
  #feature(setup: SetupPacket, set: boolean): Answer {
    const superSpeed = isSuper(this.#definition.speed);
    switch (recipientOf(setup)) {
      case 'device':
        if (setup.value === FEATURE.remoteWakeup) {
          if (((this.#shown?.attributes ?? 0) & 0x20) === 0) return stall;
          this.#remoteWakeup = set;
          return ack;
        }
        return superSpeed && (setup.value === FEATURE.u1Enable || setup.value === FEATURE.u2Enable)
          ? ack
          : stall;
      case 'interface': // FUNCTION_SUSPEND is 0; nothing here sleeps
        return superSpeed && setup.value === 0 ? ack : stall;
      case 'endpoint':
        return setup.value === ENDPOINT_HALT ? this.#setHalt(setup.index & 0x8f, set) : stall;
      default:
        return stall;
    }
  }

  #setHalt(address: number, halt: boolean): Answer {
    if ((address & 15) === 0) return ack;
    const run = this.#endpoints.endpoint(address);
    if (run === undefined || run.definition.type === 'isochronous') return stall;
    if (halt) {
      this.#endpoints.halt(address);
    } else {
      run.halted = false;
      this.#definition.onClearHalt?.(this.#state, address);
    }
    return ack;
  }

  #setConfiguration(value: number): Answer {
    const next = this.#configurations.find((one) => one.value === value) ?? null;
    if (next === null && value !== 0) return stall;
    this.#configure(next);
    this.#definition.onReset?.(this.#state);
    return ack;
  }

  /** A hub's request that reached the device: as the kernel does, what was configured stays so. */
  #portReset(): Answer {
    const active = this.#active;
    const chosen = [...this.#chosen];
    this.reset();
    this.#definition.onReset?.(this.#state);
    if (active === null) return ack;
    this.#configure(active);
    for (const [number, alternate] of chosen) {
      if (alternate !== 0) this.#setInterface(number, alternate);
    }
    return ack;
  }

  #configure(next: Configuration<S> | null): void {
    const gone = this.#active === null ? [] : this.#chosenSettings(this.#active);
    this.#active = next;
    this.#chosen.clear();
    for (const one of next?.alternates ?? []) this.#chosen.set(one.number, 0);
    const come = next === null ? [] : this.#chosenSettings(next);
    this.#endpoints.replaceEndpoints(
      gone.flatMap((one) => one.endpoints),
      come.flatMap((one) => this.#pairs(one)),
    );
  }

  #chosenSettings(configuration: Configuration<S>): AlternateSetting[] {
    return configuration.alternates.filter((one) => this.#chosen.get(one.number) === one.alternate);
  }

  #setInterface(number: number, alternate: number): Answer {
    const settings = this.#active?.alternates.filter((one) => one.number === number) ?? [];
    const next = settings.find((one) => one.alternate === alternate);
    if (next === undefined) return stall;
    const last = settings.find((one) => one.alternate === this.#chosen.get(number));
    this.#chosen.set(number, alternate);
    this.#endpoints.replaceEndpoints(last?.endpoints ?? [], this.#pairs(next));
    this.#definition.onInterface?.(this.#state, number, alternate);
    return ack;
  }

  /** The endpoints of a setting with their handlers. */
  #pairs(setting: AlternateSetting): EndpointPair<S>[] {
    const place = this.#active?.alternates.indexOf(setting) ?? -1;
    const definitions: readonly EndpointDefinition<S>[] =
      this.#active?.definitions[place]?.endpoints ?? [];
    return setting.endpoints.flatMap((info) => {
      const definition = definitions.find((one) => one.address === info.address);
      return definition === undefined ? [] : [{ info, definition }];
    });
  }
}

function recipientOf(setup: SetupPacket): (typeof RECIPIENTS)[number] | undefined {
  return RECIPIENTS[setup.requestType & 31];
}

function matches<S>(row: ControlRow<S>, setup: SetupPacket): boolean {
  return (
    row.request === setup.request &&
    (row.direction === 'in') === ((setup.requestType & 0x80) !== 0) &&
    row.type === TYPES[(setup.requestType >> 5) & 3] &&
    (row.recipient === undefined || row.recipient === recipientOf(setup)) &&
    (row.index === undefined || row.index === setup.index)
  );
}
