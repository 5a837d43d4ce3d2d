/**
 * A controller in this domain whose devices are behind a ring: for programs in a guest whose kernel
 * has no front end, and for other processes of the same host.
 */
import { EventEmitter } from 'node:events';
import { type Clock, systemClock } from '../core/clock.ts';
import { backendLeft } from './backend-left.ts';
import { FrontUrbs, IDS } from './front-urbs.ts';
import { Looks } from './looks.ts';
import type {
  EventChannel,
  GrantedPages,
  Platform,
  StoreOperations,
  StoreWatch,
} from './platform.ts';
import { PortWatch } from './port-watch.ts';
import { RingDevice } from './ring-device.ts';
import { RingError } from './ring-error.ts';
import { Spinner } from './spinner.ts';
import { numberOf } from './store-number.ts';
import { SEGMENTS_MAX } from './usbif.ts';
import { frontAction, XENBUS_STATE, type XenbusState, xenbusStateOf } from './xenbus-state.ts';

/** How long a back end may take to let go when this end closes; it may have been killed. */
const CLOSE_MILLISECONDS = 5_000;

/** What a front end writes for its back end to connect. */
const CONNECTION_NODES = [
  'urb-ring-ref',
  'conn-ring-ref',
  'event-channel',
  'stall-protocol',
] as const;

export interface FrontendEvents {
  /** The back end is there: devices come and go from now on. */
  connected: [];
  /** The back end has left; all devices are unplugged. One that comes is taken up by itself. */
  left: [];
  /** A device is there; its transfers end when it goes. */
  plugged: [RingDevice];
  unplugged: [RingDevice];
  /** The back end broke the protocol, or the store or the platform failed: the devices are gone. */
  fault: [Error];
}

/** What exists while connected. */
interface Rings {
  readonly pages: GrantedPages;
  readonly memory: GrantedPages;
  readonly channel: EventChannel;
  readonly urbs: FrontUrbs;
  readonly ports: PortWatch;
  readonly spinner: Spinner;
  readonly stallProtocol: boolean;
}

export class Frontend extends EventEmitter<FrontendEvents> {
  readonly #platform: Platform;
  readonly #path: string;
  readonly #clock: Clock;
  readonly #devices = new Map<number, RingDevice>();
  readonly #looks = new Looks(() => this.#look());
  #backend = '';
  #backDomain = 0;
  #watch: StoreWatch | null = null;
  #rings: Rings | null = null;
  #closing = false;

  /**
   * Told of an exception that is no fault of the back end's; all devices are lost then. If it is
   * null, the exception goes where exceptions go and all goes on: it may be one of the program's
   * own handlers.
   */
  onBug: ((error: unknown) => void) | null = null;

  /** @param path The front end's directory, /local/domain/DOMAIN/device/vusb/DEVICE. */
  constructor(platform: Platform, path: string, clock: Clock = systemClock) {
    super();
    this.#platform = platform;
    this.#clock = clock;
    this.#path = path;
  }

  /** Devices that are there, by port. */
  get devices(): ReadonlyMap<number, RingDevice> {
    return this.#devices;
  }

  /**
   * Begins anew, whatever a front end before this one has left in the store: its pages went with it.
   *
   * @throws {RingError} if the toolstack has not made the controller.
   */
  async start(): Promise<void> {
    const { store } = this.#platform;
    this.#backend = (await store.read(`${this.#path}/backend`)) ?? '';
    this.#backDomain = numberOf(await store.read(`${this.#path}/backend-id`)) ?? 0;
    if (this.#backend === '') {
      throw new RingError('unknown-state', `Cannot use ${this.#path}: there is no controller`);
    }
    await this.#setState('initialising');
    this.#watch = await store.watch(`${this.#backend}/state`, () => this.#looks.ask());
  }

  /** Leaves in an orderly way; resolves when the back end has let go. */
  async close(): Promise<void> {
    this.#closing = true;
    this.#looks.stop();
    await this.#looks.ended();
    await this.#watch?.end();
    this.#loseDevices();
    if (this.#rings === null) return;
    await this.#setState('closing');
    const path = `${this.#backend}/state`;
    await backendLeft(this.#platform.store, path, CLOSE_MILLISECONDS, this.#clock);
    this.#release();
    await this.#leave('closed');
  }

  /** The store, and whoever served it, is gone: lets go of everything without a word to anybody. */
  abandon(): void {
    this.#closing = true;
    this.#looks.stop();
    this.#release();
  }

  async #look(): Promise<void> {
    try {
      const { store } = this.#platform;
      const own = xenbusStateOf(await store.read(`${this.#path}/state`));
      const back = xenbusStateOf(await store.read(`${this.#backend}/state`));
      if (own !== undefined) await this.#act(own, back);
    } catch (error) {
      if (this.#closing) return;
      this.abandon();
      this.emit('fault', error as Error);
    }
  }

  async #act(own: XenbusState, back: XenbusState | undefined): Promise<void> {
    switch (frontAction(own, back)) {
      case 'connect':
        await this.#connect();
        break;
      case 'confirm':
        await this.#setState('connected');
        this.emit('connected');
        break;
      case 'close':
        this.#release();
        await this.#leave('closed');
        break;
      case 'restart':
        this.#release();
        await this.#leave('initialising');
        this.#looks.ask();
        break;
      case 'wait':
        break;
    }
  }

  async #connect(): Promise<void> {
    this.#release();
    const { store } = this.#platform;
    const offered = await store.read(`${this.#backend}/feature-stall-protocol`);
    const rings = this.#makeRings(offered === '1');
    this.#rings = rings;
    const [urbRing, connRing] = rings.pages.references;
    const values = {
      'urb-ring-ref': urbRing,
      'conn-ring-ref': connRing,
      'event-channel': rings.channel.port,
      'stall-protocol': rings.stallProtocol ? 1 : 0,
    };
    await this.#change(async (nodes) => {
      for (const name of CONNECTION_NODES) {
        await nodes.write(`${this.#path}/${name}`, `${values[name]}`);
      }
      await nodes.write(`${this.#path}/state`, `${XENBUS_STATE.initialised}`);
    });
  }

  #makeRings(stallProtocol: boolean): Rings {
    const platform = this.#platform;
    const pages = platform.grant(this.#backDomain, 2);
    const memory = platform.grant(this.#backDomain, IDS * SEGMENTS_MAX);
    const channel = platform.offerChannel(this.#backDomain);
    const page = pages.memory.length / 2;
    const notify = () => channel.notify();
    const urbs = new FrontUrbs({
      ringPage: pages.memory.subarray(0, page),
      memory: memory.memory,
      references: memory.references,
      notify,
    });
    const ports = new PortWatch(pages.memory.subarray(page), notify, (port, speed) => {
      this.#unplugged(port);
      if (speed === 'none') return;
      const options = { port, speed, stallProtocol, urbs, clock: this.#clock };
      this.#plugged(new RingDevice({ ...options, onGivenUp: () => this.#unplugged(port) }));
    });
    const spinner = new Spinner({
      waiting: () => urbs.waiting,
      expecting: () => urbs.outstanding > 0,
      work: () => this.#work(),
    });
    channel.onEvent = () => this.#work();
    return { pages, memory, channel, urbs, ports, spinner, stallProtocol };
  }

  #work(): void {
    const rings = this.#rings;
    if (rings === null) return;
    try {
      const awake = rings.spinner.begin();
      let again = rings.urbs.work(awake);
      if (this.#rings !== rings) return;
      if (rings.ports.work()) again = true;
      if (this.#rings !== rings) return; // who was told let go of them: their memory is no more
      rings.spinner.end(awake && !again);
      if (again) setImmediate(() => this.#work());
    } catch (error) {
      if (!(error instanceof RingError)) {
        if (this.onBug === null) {
          setImmediate(() => this.#work()); // a handler's own; nobody has asked for an event yet
          throw error;
        }
        this.onBug(error);
      }
      rings.channel.onEvent = () => {};
      rings.spinner.stop();
      this.#loseDevices();
      this.emit('fault', error instanceof Error ? error : new Error(String(error)));
    }
  }

  #plugged(device: RingDevice): void {
    this.#devices.set(device.port, device);
    this.emit('plugged', device);
  }

  #unplugged(port: number): void {
    const device = this.#devices.get(port);
    if (device === undefined) return;
    this.#devices.delete(port);
    device.lost();
    this.emit('unplugged', device);
  }

  #loseDevices(): void {
    for (const port of [...this.#devices.keys()]) this.#unplugged(port);
  }

  /** The back end must have let go. */
  #release(): void {
    this.#loseDevices();
    const rings = this.#rings;
    this.#rings = null;
    if (rings === null) return;
    rings.spinner.stop();
    rings.channel.close();
    rings.pages.end();
    rings.memory.end();
    if (!this.#closing) this.emit('left');
  }

  async #setState(state: XenbusState): Promise<void> {
    await this.#change((nodes) => nodes.write(`${this.#path}/state`, `${XENBUS_STATE[state]}`));
  }

  /** What described the connection goes with it. */
  async #leave(state: XenbusState): Promise<void> {
    await this.#change(async (nodes) => {
      for (const name of CONNECTION_NODES) await nodes.remove(`${this.#path}/${name}`);
      await nodes.write(`${this.#path}/state`, `${XENBUS_STATE[state]}`);
    });
  }

  /** Changes this end's directory; never brings back one that the toolstack has removed. */
  async #change(work: (nodes: StoreOperations) => Promise<void>): Promise<void> {
    await this.#platform.store.transaction(async (nodes) => {
      if ((await nodes.read(`${this.#path}/state`)) !== undefined) await work(nodes);
    });
  }
}
