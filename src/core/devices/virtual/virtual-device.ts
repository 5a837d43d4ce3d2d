/**
 * Runs a device definition: the engine behind every virtual device.
 *
 * Each endpoint has at most one URB here (`queueModel: 'serial'`). Serving it means to ask the
 * endpoint's handler until the URB ends or the handler says `nak`; `bus.wake` asks again. Handlers
 * never nest: a wake from inside a handler is noted and worked off when that handler has returned.
 *
 * Endpoint 0 is served by `ControlPipe`; what packets do to transfers stands in packets.ts and
 * isochronous.ts.
 */

import { assert } from '../../assert.ts';
import { type Clock, systemClock } from '../../clock.ts';
import type { DeviceHost, DeviceInfo, EndpointInfo, UsbDevice } from '../../device.ts';
import { ENDPOINT_PLACES, placeOf } from '../../endpoint-place.ts';
import type { Urb, UrbStatus } from '../../urb.ts';
import { ControlPipe } from './control-pipe.ts';
import type { DeviceDefinition, EndpointDefinition } from './definition.ts';
import { failPackets, movePackets, schedule } from './isochronous.ts';
import { type EndpointRun, joined, moveData, type Progress } from './packets.ts';

const NO_OCTETS = Buffer.alloc(0);

export interface VirtualDeviceOptions {
  readonly clock?: Clock;
  /** Told of exceptions from handlers; the transfer at hand has failed with 'protocol-error'. */
  readonly onFault?: (error: unknown) => void;
}

export class VirtualDevice<S> implements UsbDevice {
  readonly queueModel = 'serial';
  readonly definition: DeviceDefinition<S>;
  readonly state: S;
  readonly #control: ControlPipe<S>;
  readonly #clock: Clock;
  readonly #onFault: (error: unknown) => void;
  readonly #endpoints: (EndpointRun<S> | undefined)[] = new Array(ENDPOINT_PLACES).fill(undefined);
  #controlUrb: Urb | null = null;
  #host: DeviceHost | null = null;
  /** Slots to serve, one bit each; bit 0 is endpoint 0. */
  #woken = 0;
  #serving = false;

  constructor(definition: DeviceDefinition<S>, options: VirtualDeviceOptions = {}) {
    this.definition = definition;
    this.#clock = options.clock ?? systemClock;
    this.#onFault = options.onFault ?? (() => {});
    this.state = definition.state({
      wake: (address) => this.#wake(placeOf(address)),
      halt: (address) => this.#halt(placeOf(address)),
    });
    this.#control = new ControlPipe(definition, this.state, {
      endpoint: (address) => this.#endpoints[placeOf(address)],
      replaceEndpoints: (gone, come) => this.#replaceEndpoints(gone, come),
      halt: (address) => this.#halt(placeOf(address)),
    });
  }

  get info(): DeviceInfo {
    return this.#control.info;
  }

  endpoint(address: number): EndpointInfo | undefined {
    if ((address & 15) === 0) return this.#control.endpoint;
    return this.#endpoints[placeOf(address)]?.info;
  }

  open(host: DeviceHost): void {
    assert(this.#host === null, 'Cannot open virtual device: it is open');
    this.#host = host;
  }

  submit(urb: Urb): void {
    if (urb.endpoint.type === 'control') {
      assert(this.#controlUrb === null, 'Cannot submit a control URB: one is at the device');
      this.#controlUrb = urb;
      this.#wake(0);
      return;
    }
    const slot = placeOf(urb.endpoint.address);
    const run = this.#endpoints[slot];
    // The endpoint may have gone with a SET_INTERFACE while the URB waited in its queue.
    if (run === undefined || run.info !== urb.endpoint) {
      this.#complete(urb, 'shutdown', 0, NO_OCTETS);
      return;
    }
    if (urb.packets !== null) {
      this.#submitIsochronous(run, urb);
      return;
    }
    assert(run.urb === null, 'Cannot submit a URB: one is at the endpoint');
    run.urb = urb;
    run.moved = 0;
    this.#wake(slot);
  }

  unlink(urb: Urb): void {
    if (urb === this.#controlUrb) {
      this.#controlUrb = null;
      this.#complete(urb, 'unlinked', 0, NO_OCTETS);
      return;
    }
    const run = this.#endpoints[placeOf(urb.endpoint.address)];
    if (run?.urb !== urb) return; // it has completed, or is about to
    if (run.moved > 0) this.#tellUnlink(run.info.address);
    this.#finish(run, 'unlinked');
  }

  #tellUnlink(address: number): void {
    try {
      this.definition.onUnlink?.(this.state, address);
    } catch (error) {
      this.#onFault(error);
    }
  }

  reset(): void {
    this.#control.reset();
    this.definition.onReset?.(this.state);
  }

  async close(): Promise<void> {
    this.#host = null;
    this.reset();
    await this.definition.onRelease?.(this.state);
  }

  async dispose(): Promise<void> {
    await this.definition.onDispose?.(this.state);
  }

  /** Takes the device away from its session, as a cable that is pulled. */
  unplug(): void {
    this.#host?.removed();
  }

  #wake(slot: number): void {
    this.#woken |= 1 << slot;
    if (this.#serving) return;
    this.#serving = true;
    try {
      while (this.#woken !== 0) {
        const next = 31 - Math.clz32(this.#woken & -this.#woken);
        this.#woken &= ~(1 << next);
        this.#serve(next);
      }
    } catch (error) {
      this.#bug(error); // who wakes may be a timer of the definition's, where nobody catches
    } finally {
      this.#serving = false;
    }
  }

  #bug(error: unknown): void {
    if (this.#host !== null) this.#host.failed(error);
    else this.#onFault(error);
  }

  #serve(slot: number): void {
    if (slot === 0) {
      this.#serveControl();
      return;
    }
    const run = this.#endpoints[slot];
    if (run === undefined) return;
    let progress: Progress;
    try {
      progress = moveData(run, this.state);
    } catch (error) {
      this.#onFault(error);
      progress = run.urb === null ? null : 'protocol-error';
    }
    if (progress === 'slice') this.#clock.after(0, () => this.#wake(slot));
    else if (progress !== null) this.#finish(run, progress);
  }

  #serveControl(): void {
    const urb = this.#controlUrb;
    if (urb === null) return;
    let ended: boolean;
    try {
      ended = this.#control.serve(urb);
    } catch (error) {
      this.#onFault(error);
      urb.status = 'protocol-error';
      ended = true;
    }
    // A handler may have unlinked nothing, but a reset in it may have taken the URB back.
    if (!ended || this.#controlUrb !== urb) return;
    this.#controlUrb = null;
    this.#host?.completed(urb);
  }

  #submitIsochronous(run: EndpointRun<S>, urb: Urb): void {
    const definition = run.definition;
    assert(definition.type === 'isochronous');
    if (!definition.paced) {
      this.#moveIsochronous(run, urb);
      return;
    }
    assert(run.urb === null, 'Cannot submit a URB: one is at the endpoint');
    run.urb = urb;
    run.moved = 0;
    const now = this.#clock.now();
    const end = schedule(run.pace, run.info, urb, now);
    run.cancelTimer = this.#clock.after(Math.max(0, end - now), () => {
      run.cancelTimer = null;
      run.urb = null;
      try {
        this.#moveIsochronous(run, urb);
      } catch (error) {
        this.#bug(error);
      }
    });
  }

  #moveIsochronous(run: EndpointRun<S>, urb: Urb): void {
    assert(run.definition.type === 'isochronous');
    try {
      movePackets(run.definition, run.info, this.state, urb);
    } catch (error) {
      this.#onFault(error);
      failPackets(urb);
    }
    this.#host?.completed(urb);
  }

  #halt(slot: number): void {
    const run = this.#endpoints[slot];
    if (run === undefined || run.definition.type === 'isochronous') return;
    run.halted = true;
    this.#wake(slot);
  }

  #finish(run: EndpointRun<S>, status: UrbStatus): void {
    const urb = run.urb;
    assert(urb !== null);
    run.urb = null;
    run.cancelTimer?.();
    run.cancelTimer = null;
    let dataIn: Uint8Array = NO_OCTETS;
    if (run.parts.length > 0) {
      dataIn = joined(run);
      run.parts.length = 0;
    }
    this.#complete(urb, status, run.moved, dataIn);
  }

  #complete(urb: Urb, status: UrbStatus, actualOctets: number, dataIn: Uint8Array): void {
    urb.status = status;
    urb.actualOctets = actualOctets;
    urb.dataIn = dataIn;
    this.#host?.completed(urb);
  }

  #replaceEndpoints(gone: readonly EndpointInfo[], come: readonly EndpointPair<S>[]): void {
    for (const { address } of gone) {
      const run = this.#endpoints[placeOf(address)];
      this.#endpoints[placeOf(address)] = undefined;
      if (run?.urb) this.#finish(run, 'shutdown');
    }
    for (const { info, definition } of come) {
      this.#endpoints[placeOf(info.address)] = {
        info,
        definition,
        halted: false,
        urb: null,
        moved: 0,
        parts: [],
        pace: { busyUntilMilliseconds: Number.NEGATIVE_INFINITY },
        cancelTimer: null,
      };
    }
  }
}

/** An endpoint as its descriptor says it, and the handlers behind it. */
export interface EndpointPair<S> {
  readonly info: EndpointInfo;
  readonly definition: EndpointDefinition<S>;
}
