/**
 * What Linux's xen-hcd does to its rings, for tests: the same order of stores, the same lists, the
 * same faults (unlinks that do not fit the ring are never sent). Facts from drivers/usb/host/
 * xen-hcd.c of Linux 6.1; it shares no code with src/xenring, so that both ends cannot be wrong in
 * the same way.
 *
 * A handler runs inside the loop over responses. With `lag`, the loop stops in the middle now and
 * then and lets others run, as another processor would.
 */
import { strict as assert } from 'node:assert';
import { type EventChannel, PAGE_OCTETS, type Store } from '../../src/xenring/platform.ts';

/** What it knows of the machine: `MemoryPlatform`, or `ShmHcdPlatform` between processes. */
export interface HcdPlatform {
  readonly store: Store;
  offerChannel(peer: number): EventChannel;
  /** Memory for `grantPage`. */
  pages(count: number): Buffer;
  grantPage(peer: number, page: Buffer): number;
  endGrant(reference: number): void;
}

export interface HcdUrb {
  readonly port: number;
  readonly address?: number;
  readonly endpoint: number;
  readonly type: 'isochronous' | 'interrupt' | 'control' | 'bulk';
  readonly in: boolean;
  readonly buffer?: Buffer;
  /** Where in its first page the buffer begins. */
  readonly pageOffset?: number;
  readonly setup?: readonly number[];
  readonly shortNotOk?: boolean;
  /** Further transfer flags. */
  readonly flags?: number;
  readonly packets?: { offset: number; length: number; actual?: number; status?: number }[];
  readonly done: (result: HcdResult) => void;
}

export interface HcdResult {
  readonly status: number;
  readonly actual: number;
  readonly data: Buffer;
  readonly startFrame: number;
  readonly errorCount: number;
}

interface Private {
  readonly urb: HcdUrb;
  requestId: number;
  unlinked: boolean;
  status: number;
  done: boolean;
}

interface Shadow {
  isUnlink: boolean;
  priv: Private | null;
  inFlight: boolean;
  memory: Buffer;
  references: number[];
  dataSegments: number;
}

const SLOTS = 16;
const TYPES = { isochronous: 0, interrupt: 1, control: 2, bulk: 3 };
const EINPROGRESS = 1;
const CONN_SLOTS = 512;

export interface HcdOptions {
  /** Says whether the loop over responses pauses here. */
  readonly lag?: () => boolean;
  /** What goes into the request's slot, to spoil it. */
  readonly spoil?: (slot: Buffer) => void;
}

export class XenHcd {
  readonly platform: HcdPlatform;
  readonly path: string;
  readonly urbPage: Buffer;
  readonly connPage: Buffer;
  readonly speeds: number[] = new Array(32).fill(0);
  /** "1:3": port 1 has a high-speed device now. */
  readonly plugLog: string[] = [];
  error: string | null = null;
  state = 1;
  channel: EventChannel | null = null;
  options: HcdOptions;
  onPort: (port: number, speed: number) => void = () => {};
  /** URBs the driver has not got back. */
  readonly out = new Set<HcdUrb>();
  readonly #shadow: Shadow[];
  readonly #freeIds: number[] = [];
  readonly #pendingSubmit: Private[] = [];
  readonly #pendingUnlink: Private[] = [];
  readonly #privates = new Map<HcdUrb, Private>();
  #producedPrivate = 0;
  #consumed = 0;
  #connProduced = 0;
  #connConsumed = 0;
  #running = false;
  #again = false;
  #grants: number[] = [];
  #backend = '';
  #watchdog: NodeJS.Timeout | undefined;

  constructor(platform: HcdPlatform, path: string, options: HcdOptions = {}) {
    this.platform = platform;
    this.urbPage = platform.pages(1);
    this.connPage = platform.pages(1);
    this.path = path;
    this.options = options;
    this.#shadow = Array.from({ length: SLOTS }, () => ({
      isUnlink: false,
      priv: null,
      inFlight: false,
      memory: Buffer.alloc(0),
      references: [],
      dataSegments: 0,
    }));
    for (let id = SLOTS - 1; id >= 0; id--) this.#freeIds.push(id);
  }

  get stuckUnlinks(): number {
    return this.#pendingUnlink.filter((one) => !one.done).length;
  }

  async probe(): Promise<void> {
    const { store } = this.platform;
    this.#backend = (await store.read(`${this.path}/backend`)) ?? '';
    assert(this.#backend !== '', 'no back end');
    await store.watch(`${this.#backend}/state`, () => void this.#backendChanged());
  }

  async #backendChanged(): Promise<void> {
    const back = await this.platform.store.read(`${this.#backend}/state`);
    if (['2', '3', '4'].includes(back ?? '') && this.state === 1) {
      this.state = 4; // or a second change would find us still connecting
      await this.#connect();
    } else if (back === '5' || (back === '6' && this.state !== 6)) {
      if (this.state !== 6) await this.disconnect();
    }
  }

  async #connect(): Promise<void> {
    const { store } = this.platform;
    this.makeRings(Number(await store.read(`${this.path}/backend-id`)));
    await store.transaction(async (t) => {
      await t.write(`${this.path}/urb-ring-ref`, `${this.#grants[0]}`);
      await t.write(`${this.path}/conn-ring-ref`, `${this.#grants[1]}`);
      await t.write(`${this.path}/event-channel`, `${this.channel?.port}`);
    });
    await store.write(`${this.path}/state`, '4');
  }

  makeRings(backendDomain: number): { urbRing: number; connRing: number; port: number } {
    for (const page of [this.urbPage, this.connPage]) {
      page.writeUInt32LE(1, 4);
      page.writeUInt32LE(1, 12);
    }
    this.#grants = [this.urbPage, this.connPage].map((page) =>
      this.platform.grantPage(backendDomain, page),
    );
    this.channel = this.platform.offerChannel(backendDomain);
    this.channel.onEvent = () => this.interrupt();
    for (let n = 0; n < CONN_SLOTS; n++) this.connPage.writeUInt16LE(n, 64 + 4 * n);
    this.#connProduced = CONN_SLOTS;
    this.#push(this.connPage, 0, this.#connProduced);
    return {
      urbRing: this.#grants[0] ?? 0,
      connRing: this.#grants[1] ?? 0,
      port: this.channel.port,
    };
  }

  /** usb_remove_hcd and xenbus_frontend_closed. */
  async disconnect(): Promise<void> {
    this.state = 6;
    clearTimeout(this.#watchdog);
    for (const priv of [...this.#privates.values()]) {
      const shadow = this.#shadow[priv.requestId];
      if (priv.requestId >= 0 && shadow?.inFlight && !shadow.isUnlink) this.#endGrants(shadow);
      this.#giveBack(priv, -108, 0, 0, 0);
    }
    await this.platform.store.write(`${this.path}/state`, '6');
    this.channel?.close();
    for (const reference of this.#grants.splice(0)) this.platform.endGrant(reference);
  }

  #push(page: Buffer, from: number, to: number): void {
    page.writeUInt32LE(to >>> 0, 0);
    barrier();
    const event = page.readUInt32LE(4);
    if ((to - event) >>> 0 < (to - from) >>> 0) this.channel?.notify();
  }

  get #ringFull(): boolean {
    return (this.#producedPrivate - this.#consumed) >>> 0 >= SLOTS;
  }

  submit(urb: HcdUrb): HcdUrb {
    const priv = { urb, requestId: -1, unlinked: false, status: EINPROGRESS, done: false };
    this.out.add(urb);
    this.#privates.set(urb, priv);
    if (this.error !== null || this.state === 6) {
      queueMicrotask(() => this.#giveBack(priv, -108, 0, 0, 0));
    } else if (this.#ringFull || this.#pendingSubmit.length > 0) {
      this.#pendingSubmit.push(priv);
      this.#armWatchdog();
    } else this.#doRequest(priv);
    return urb;
  }

  unlink(urb: HcdUrb): void {
    const priv = this.#privates.get(urb);
    if (priv === undefined || priv.unlinked) return;
    priv.unlinked = true;
    priv.status = -104;
    if (priv.requestId < 0) {
      this.#pendingSubmit.splice(this.#pendingSubmit.indexOf(priv), 1);
      setTimeout(() => this.#giveBack(priv, -104, 0, 0, 0), 1);
    } else if (this.#ringFull || this.#pendingUnlink.some((one) => !one.done)) {
      this.#pendingUnlink.push(priv); // and there it stays
      this.#armWatchdog();
    } else this.#doRequest(priv);
  }

  #armWatchdog(): void {
    this.#watchdog ??= setTimeout(() => {
      this.#watchdog = undefined;
      while (this.#pendingSubmit.length > 0) {
        if (this.#ringFull) return this.#armWatchdog();
        this.#doRequest(this.#pendingSubmit.shift() as Private);
      }
    }, 5);
  }

  #doRequest(priv: Private): void {
    const { urb } = priv;
    const id = this.#freeIds.pop();
    assert(id !== undefined);
    const shadow = this.#shadow[id] as Shadow;
    const slot = Buffer.alloc(148);
    slot.writeUInt16LE(id, 0);
    let pipe =
      ((urb.address ?? 1) << 8) | ((urb.endpoint & 15) << 15) | (urb.in ? 0x80 : 0) | urb.port;
    pipe |= TYPES[urb.type] << 30;
    shadow.isUnlink = priv.unlinked;
    if (priv.unlinked) {
      pipe |= 0x20;
      slot.writeUInt16LE(priv.requestId, 12);
    } else {
      priv.requestId = id;
      this.#map(shadow, urb, slot);
    }
    slot.writeUInt32LE(pipe >>> 0, 4);
    this.options.spoil?.(slot);
    this.urbPage.set(slot, 64 + (this.#producedPrivate & 15) * 148);
    const from = this.#producedPrivate;
    this.#producedPrivate = (from + 1) >>> 0;
    shadow.priv = priv;
    shadow.inFlight = true;
    this.#push(this.urbPage, from, this.#producedPrivate);
  }

  #map(shadow: Shadow, urb: HcdUrb, slot: Buffer): void {
    const buffer = urb.buffer ?? Buffer.alloc(0);
    const offset = urb.pageOffset ?? 0;
    const dataPages = buffer.length === 0 ? 0 : Math.ceil((offset + buffer.length) / PAGE_OCTETS);
    const frames = buffer.length === 0 ? [] : (urb.packets ?? []);
    const frameOffset = 4000; // so that descriptors cross a page
    const framePages =
      frames.length === 0 ? 0 : Math.ceil((frameOffset + frames.length * 16) / PAGE_OCTETS);
    const pages = dataPages + framePages;
    assert(pages <= 16, 'E2BIG');
    const memory = this.platform.pages(pages);
    buffer.copy(memory, offset);
    for (const [n, { offset: at, length }] of frames.entries()) {
      memory.writeUInt32LE(at, dataPages * PAGE_OCTETS + frameOffset + 16 * n);
      memory.writeUInt32LE(length, dataPages * PAGE_OCTETS + frameOffset + 16 * n + 4);
    }
    shadow.memory = memory;
    shadow.dataSegments = dataPages;
    shadow.references = [];
    const segment = (n: number, from: number, octets: number) => {
      const page = memory.subarray(n * PAGE_OCTETS, (n + 1) * PAGE_OCTETS);
      const reference = this.platform.grantPage(0, page);
      shadow.references.push(reference);
      slot.writeUInt32LE(reference, 20 + 8 * n);
      slot.writeUInt16LE(from, 24 + 8 * n);
      slot.writeUInt16LE(octets, 26 + 8 * n);
    };
    const split = (first: number, count: number, start: number, octets: number) => {
      let left = octets;
      for (let n = 0; n < count; n++) {
        const from = n === 0 ? start : 0;
        const here = Math.min(PAGE_OCTETS - from, left);
        segment(first + n, from, here);
        left -= here;
      }
    };
    split(0, dataPages, offset, buffer.length);
    split(dataPages, framePages, frameOffset, frames.length * 16);
    slot.writeUInt16LE(dataPages, 2);
    slot.writeUInt16LE((urb.shortNotOk ? 1 : 0) | (urb.flags ?? 0), 8);
    slot.writeUInt16LE(buffer.length & 0xffff, 10);
    if (urb.setup) slot.set(urb.setup, 12);
    if (urb.type === 'isochronous') {
      slot.writeUInt16LE(urb.packets?.length ?? 0, 16);
      slot.writeUInt16LE(framePages, 18);
    }
  }

  #endGrants(shadow: Shadow): void {
    for (const reference of shadow.references.splice(0)) this.platform.endGrant(reference);
    shadow.inFlight = false;
  }

  #giveBack(
    priv: Private,
    status: number,
    actual: number,
    startFrame: number,
    errorCount: number,
  ): void {
    if (priv.done) return;
    priv.done = true;
    const { urb } = priv;
    this.#privates.delete(urb);
    this.out.delete(urb);
    const known = [0, -19, -22, -32, -71, -75].includes(status) ? status : -108;
    let end = priv.status <= 0 ? priv.status : known;
    // usbcore: usb_hcd_giveback_urb
    const octets = urb.buffer?.length ?? 0;
    const clamped = Math.min(Math.max(actual, 0), octets);
    if (end === 0 && urb.shortNotOk && urb.in && clamped < octets) end = -121;
    const data = Buffer.from(urb.buffer ?? Buffer.alloc(0)).subarray(0, clamped);
    urb.done({ status: end, actual: clamped, data, startFrame, errorCount });
  }

  #fail(message: string): void {
    this.error ??= message;
  }

  /** The threaded interrupt handler. */
  interrupt(): void {
    this.#again = true;
    if (this.#running) return;
    this.#running = true;
    void this.#loop().finally(() => {
      this.#running = false;
      if (this.#again) this.interrupt();
    });
  }

  async #loop(): Promise<void> {
    this.#again = false;
    const { lag } = this.options;
    const pause = () => new Promise((resolve) => setImmediate(resolve));
    let more = true;
    while (more && this.error === null && this.state !== 6) {
      more = false;
      const produced = this.urbPage.readUInt32LE(8);
      if ((produced - this.#consumed) >>> 0 > SLOTS) return this.#fail('Illegal index on urb-ring');
      let at = this.#consumed;
      for (; at !== produced; at = (at + 1) >>> 0) {
        if (lag?.()) await pause();
        this.#response(at);
        if (this.error !== null) return;
      }
      this.#consumed = at;
      if (lag?.()) await pause();
      if (at !== this.#producedPrivate) {
        if (this.urbPage.readUInt32LE(8) !== at) more = true;
        else {
          this.urbPage.writeUInt32LE((at + 1) >>> 0, 12);
          barrier();
          more = this.urbPage.readUInt32LE(8) !== at;
        }
      } else this.urbPage.writeUInt32LE((at + 1) >>> 0, 12);
      if (this.#connLoop()) more = true;
    }
  }

  #response(index: number): void {
    const at = 64 + (index & 15) * 148;
    const id = this.urbPage.readUInt16LE(at);
    if (id >= SLOTS) {
      this.#fail('Illegal data on urb-ring');
      return;
    }
    const shadow = this.#shadow[id] as Shadow;
    const { priv } = shadow;
    if (!shadow.isUnlink) {
      if (!shadow.inFlight || priv === null) {
        this.#fail('Illegal request id');
        return;
      }
      const startFrame = this.urbPage.readUInt16LE(at + 2);
      const status = this.urbPage.readInt32LE(at + 4);
      const actual = this.urbPage.readInt32LE(at + 8);
      const errors = this.urbPage.readInt32LE(at + 12);
      this.#takeData(shadow, priv.urb);
      this.#endGrants(shadow);
      this.#giveBack(priv, status, actual, startFrame, errors);
    }
    shadow.inFlight = false;
    shadow.priv = null;
    this.#freeIds.push(id);
  }

  #takeData(shadow: Shadow, urb: HcdUrb): void {
    const offset = urb.pageOffset ?? 0;
    if (urb.in) urb.buffer?.set(shadow.memory.subarray(offset, offset + urb.buffer.length));
    for (const [n, packet] of (urb.packets ?? []).entries()) {
      const at = shadow.dataSegments * PAGE_OCTETS + 4000 + 16 * n;
      if (at + 16 > shadow.memory.length) break;
      packet.actual = shadow.memory.readUInt32LE(at + 8);
      packet.status = shadow.memory.readInt32LE(at + 12);
    }
  }

  #connLoop(): boolean {
    const page = this.connPage;
    const produced = page.readUInt32LE(8);
    if ((produced - this.#connConsumed) >>> 0 > CONN_SLOTS) {
      this.#fail('Illegal index on conn-ring');
      return false;
    }
    const from = this.#connProduced;
    while (this.#connConsumed !== produced) {
      const at = 64 + (this.#connConsumed & 511) * 4;
      const id = page.readUInt16LE(at);
      const port = page.readUInt8(at + 2);
      const speed = page.readUInt8(at + 3);
      this.#connConsumed = (this.#connConsumed + 1) >>> 0;
      if (port < 1 || port > 31 || speed > 3) {
        this.#fail('Illegal data on conn-ring');
        return false;
      }
      if (this.speeds[port] !== speed) {
        this.speeds[port] = speed;
        this.plugLog.push(`${port}:${speed}`);
        this.onPort(port, speed);
      }
      page.writeUInt16LE(id, 64 + (this.#connProduced & 511) * 4);
      this.#connProduced = (this.#connProduced + 1) >>> 0;
    }
    let more = false;
    if (this.#connConsumed !== this.#connProduced) {
      page.writeUInt32LE((this.#connConsumed + 1) >>> 0, 12);
      barrier();
      more = page.readUInt32LE(8) !== this.#connConsumed;
    } else page.writeUInt32LE((this.#connConsumed + 1) >>> 0, 12);
    this.#push(page, from, this.#connProduced);
    return more;
  }

  /** A URB as a promise. */
  transfer(urb: Omit<HcdUrb, 'done'>): Promise<HcdResult> {
    return new Promise((resolve) => this.submit({ ...urb, done: resolve }));
  }

  control(
    port: number,
    setup: readonly number[],
    octets = 0,
    data?: Buffer,
    address = 1,
  ): Promise<HcdResult> {
    return this.transfer({
      port,
      address,
      endpoint: 0,
      type: 'control',
      in: ((setup[0] ?? 0) & 0x80) !== 0,
      setup,
      buffer: data ?? Buffer.alloc(octets),
    });
  }
}

/** mb(): what is stored before is seen before what is loaded after. */
function barrier(): void {
  Atomics.add(BARRIER, 0, 1);
}

const BARRIER = new Int32Array(new SharedArrayBuffer(4));
