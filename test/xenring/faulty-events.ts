/** A platform whose events are late, doubled, or for nothing, as a seed has it. None is lost. */
import type {
  Domain,
  EventChannel,
  GrantedPages,
  GrantSegment,
  MappedPages,
  Platform,
  PlatformUse,
  Store,
} from '../../src/xenring/platform.ts';
import { randomOf } from './memory-platform.ts';

const LATE_MILLISECONDS_MAX = 4;

export class FaultyEvents implements Platform {
  readonly domain: Domain;
  readonly store: Store;
  readonly #inner: Platform;
  readonly #random: () => number;

  constructor(inner: Platform, seed: number) {
    this.#inner = inner;
    this.domain = inner.domain;
    this.store = inner.store;
    this.#random = randomOf(seed);
  }

  get inUse(): PlatformUse {
    return this.#inner.inUse;
  }

  grant(peer: Domain, pages: number): GrantedPages {
    return this.#inner.grant(peer, pages);
  }

  map(peer: Domain, references: readonly number[]): MappedPages {
    return this.#inner.map(peer, references);
  }

  copyFrom(peer: Domain, segments: readonly GrantSegment[], target: Buffer): void {
    this.#inner.copyFrom(peer, segments, target);
  }

  copyTo(peer: Domain, segments: readonly GrantSegment[], source: Uint8Array): void {
    this.#inner.copyTo(peer, segments, source);
  }

  offerChannel(peer: Domain): EventChannel {
    return new FaultyChannel(this.#inner.offerChannel(peer), this.#random);
  }

  bindChannel(peer: Domain, port: number): EventChannel {
    return new FaultyChannel(this.#inner.bindChannel(peer, port), this.#random);
  }

  close(): Promise<void> {
    return this.#inner.close();
  }
}

class FaultyChannel implements EventChannel {
  onEvent: () => void = () => {};
  readonly #inner: EventChannel;
  readonly #random: () => number;
  #closed = false;

  constructor(inner: EventChannel, random: () => number) {
    this.#inner = inner;
    this.#random = random;
    inner.onEvent = () => this.onEvent();
  }

  get port(): number {
    return this.#inner.port;
  }

  notify(): void {
    const dice = this.#random();
    if (dice < 0.3) this.#later(() => this.#inner.notify());
    else this.#inner.notify();
    if (dice > 0.9) this.#inner.notify();
    if (dice > 0.8) this.#later(() => this.onEvent());
  }

  close(): void {
    this.#closed = true;
    this.#inner.close();
  }

  #later(call: () => void): void {
    setTimeout(() => this.#closed || call(), this.#random() * LATE_MILLISECONDS_MAX);
  }
}
