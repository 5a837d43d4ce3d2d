/** A device while it is open for WebUSB: its import, and what is under way on it. */
import { type Clock, systemClock } from '../core/clock.ts';
import { UserError } from '../core/errors.ts';
import { LATE_UNLINK_MILLISECONDS } from '../core/limits.ts';
import type { Transfer, TransferResult } from '../core/transfer.ts';
import { within } from '../core/within.ts';
import { importDevice, type RemoteDevice } from './client.ts';
import type { Pending } from './pending.ts';
import type { ListenAddress } from './server.ts';
import { fault, statusOf } from './webusb-transfers.ts';

const CONTROL = { endpoint: 0, type: 'control' } as const;
/** bmRequestType and bRequest (USB 2.0, 9.4 and 11.24.2). */
const GET_CONFIGURATION = [0x80, 8] as const;
const SET_CONFIGURATION = [0x00, 9] as const;
const SET_INTERFACE = [0x01, 11] as const;
const CLEAR_FEATURE = [0x02, 1] as const;
/** SET_FEATURE(PORT_RESET): what servers take for a reset of the device. */
const SET_PORT_FEATURE = [0x23, 3] as const;
const ENDPOINT_HALT = 0;
const PORT_RESET = 4;
/** For one of these: a gateway may have to wait for transfers that it cannot cancel, and for a reset. */
const REQUEST_MILLISECONDS = 10_000;
/** A device that does not say within that time which configuration it has is believed to have the one it had. */
const CONFIGURATION_MILLISECONDS = 1_000;
/** From a transfer's end as 'shutdown' to the end of the connection, if the device has gone. */
const GONE_MILLISECONDS = 1_000;

/**
 * Imports a device, and sees to it that it has a configuration (0: whichever it has).
 *
 * @throws {DOMException} NetworkError if the server cannot be reached or refuses, or the device refuses.
 */
export async function openDevice(
  server: ListenAddress,
  busId: string,
  configurationValue: number,
  clock: Clock = systemClock,
): Promise<OpenDevice> {
  const open = new OpenDevice(await imported(server, busId, clock), clock);
  try {
    await open.restore(configurationValue);
    return open;
  } catch (error) {
    await open.close();
    throw error;
  }
}

async function imported(server: ListenAddress, busId: string, clock: Clock): Promise<RemoteDevice> {
  try {
    return await importDevice(server, busId, { clock });
  } catch (error) {
    if (error instanceof UserError) throw fault('NetworkError', error.message);
    throw error;
  }
}

export class OpenDevice {
  readonly #remote: RemoteDevice;
  readonly #clock: Clock;
  /** By endpoint address: transfers, and what resolves when each is back. */
  readonly #underWay = new Map<number, Map<Pending, Promise<unknown>>>();
  #isClosing = false;

  constructor(remote: RemoteDevice, clock: Clock) {
    this.#remote = remote;
    this.#clock = clock;
  }

  /** Resolves when the connection is gone, for whatever reason. */
  get closed(): Promise<void> {
    return this.#remote.closed;
  }

  /** A server that does not give transfers back is not waited for: they end with the connection. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await within(
      this.abort(() => true),
      LATE_UNLINK_MILLISECONDS,
      () => {},
      this.#clock,
    );
    await this.#remote.close();
  }

  /** @throws {DOMException} if it ends with neither success nor a stall nor a babble. */
  async transfer(transfer: Transfer): Promise<TransferResult> {
    const { endpoint } = transfer;
    const underWay = this.#underWay.get(endpoint) ?? new Map<Pending, Promise<unknown>>();
    this.#underWay.set(endpoint, underWay);
    let end: (result: TransferResult) => void = () => {};
    const back = new Promise<TransferResult>((resolve) => {
      end = resolve;
    });
    const pending = this.#remote.submit(transfer, end);
    underWay.set(pending, back);
    const result = await back;
    underWay.delete(pending);
    const isAborted = this.#isClosing && result.status === 'shutdown';
    if (result.status === 'unlinked' || isAborted)
      throw fault('AbortError', 'the transfer was taken back');
    // A server says first how the transfers of a device that has gone end, and closes then.
    if (result.status === 'shutdown') {
      await within(this.#remote.closed, GONE_MILLISECONDS, () => {}, this.#clock);
    }
    if (!this.#remote.isOpen) throw fault('NotFoundError', 'the device has gone');
    statusOf(result);
    return result;
  }

  /** A control transfer. */
  control(setup: Buffer, rest: Pick<Transfer, 'octets' | 'data'> = {}): Promise<TransferResult> {
    return this.transfer({ ...CONTROL, ...rest, setup });
  }

  /**
   * A device is reset when its client lets go of it, and a server may have left it unconfigured. A computer
   * would configure it again.
   */
  async restore(configurationValue: number): Promise<void> {
    if (configurationValue === 0) return;
    const setup = setupPacket(...GET_CONFIGURATION, 0, 0, 1);
    const transfer = { ...CONTROL, setup, octets: 1 };
    const { status, data } = await this.#remote.transferWithin(
      transfer,
      CONFIGURATION_MILLISECONDS,
    );
    const isOther = status === 'ok' && data[0] !== configurationValue;
    if (isOther) await this.setConfiguration(configurationValue);
  }

  /** These throw a NetworkError if the device refuses. */
  setConfiguration(value: number): Promise<void> {
    return this.#request(...SET_CONFIGURATION, value, 0);
  }

  setInterface(interfaceNumber: number, alternateSetting: number): Promise<void> {
    return this.#request(...SET_INTERFACE, alternateSetting, interfaceNumber);
  }

  clearHalt(address: number): Promise<void> {
    return this.#request(...CLEAR_FEATURE, ENDPOINT_HALT, address);
  }

  reset(): Promise<void> {
    return this.#request(...SET_PORT_FEATURE, PORT_RESET, 0);
  }

  /** Takes back what is under way on some endpoints, and waits for it: see `RemoteDevice.unlink` for how long. */
  async abort(which: (address: number) => boolean): Promise<void> {
    const chosen = [...this.#underWay].filter(([address]) => which(address));
    const back = chosen.flatMap(([, underWay]) => [...underWay.values()]);
    for (const [, underWay] of chosen) {
      for (const one of [...underWay.keys()].reverse()) this.#remote.unlink(one);
    }
    await Promise.all(back);
  }

  async #request(type: number, request: number, value: number, index: number): Promise<void> {
    const setup = setupPacket(type, request, value, index, 0);
    const { status } = await this.#remote.transferWithin(
      { ...CONTROL, setup },
      REQUEST_MILLISECONDS,
    );
    if (!this.#remote.isOpen) throw fault('NotFoundError', 'the device has gone');
    if (status !== 'ok') throw fault('NetworkError', `the request ends with ${status}`);
  }
}

function setupPacket(
  type: number,
  request: number,
  value: number,
  index: number,
  length: number,
): Buffer {
  const setup = Buffer.from([type, request, 0, 0, 0, 0, 0, 0]);
  setup.writeUInt16LE(value, 2);
  setup.writeUInt16LE(index, 4);
  setup.writeUInt16LE(length, 6);
  return setup;
}
