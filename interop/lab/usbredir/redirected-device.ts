/**
 * A device of ours behind a host controller that QEMU emulates: it talks to QEMU's `usb-redir` as a
 * server that forwards a real one does. So the guest has hardware whose every packet the test decides.
 *
 * QEMU's xHCI does as the hardware does: it goes on behind a short packet. Devices may have control
 * and bulk endpoints.
 */
import { strict as assert } from 'node:assert';
import { connect, type Socket } from 'node:net';
import { REQUEST } from '../../../src/core/descriptors.ts';
import type { EndpointInfo, Speed, UsbDevice } from '../../../src/core/device.ts';
import { type SetupPacket, Urb, type UrbStatus } from '../../../src/core/urb.ts';
import { within } from '../deadline.ts';
import {
  BulkPacket,
  CAPABILITIES,
  ControlPacket,
  DeviceConnect,
  ENDPOINT_ABSENT,
  ENDPOINT_TYPES,
  EndpointInfos,
  encodePacket,
  Hello,
  InterfaceInfo,
  type Packet,
  PacketReader,
  STATUS,
  TYPE,
} from './protocol.ts';
import { TransferQueues } from './transfer-queue.ts';

const PLUG_SECONDS = 20;
/** Of the device's only configuration. */
const CONFIGURATION = 1;
const SPEEDS: readonly Speed[] = ['low', 'full', 'high', 'super'];
const NO_OCTETS = Buffer.alloc(0);

const STATUS_OF: Partial<Record<UrbStatus, number>> = {
  ok: STATUS.success,
  unlinked: STATUS.cancelled,
  stall: STATUS.stall,
  timeout: STATUS.timeout,
  babble: STATUS.babble,
};

export class RedirectedDevice {
  readonly #device: UsbDevice;
  readonly #queues: TransferQueues;
  readonly #path: string;
  #socket: Socket | undefined;
  #nextId = -1;

  /** @param path - of the socket at which QEMU listens */
  constructor(device: UsbDevice, path: string) {
    this.#device = device;
    this.#queues = new TransferQueues(device);
    this.#path = path;
  }

  /** What QEMU is to be started with. @param bus - such as `xhci.0` */
  static qemuArguments(id: string, path: string, bus: string): string[] {
    return [
      ...['-chardev', `socket,id=${id},path=${path},server=on,wait=off`],
      ...['-device', `usb-redir,chardev=${id},bus=${bus}`],
    ];
  }

  /** Plugs it in. The guest sees it a moment later. */
  async plugIn(): Promise<void> {
    assert(this.#socket === undefined, 'Cannot plug in a device: it is plugged in');
    const socket = connect(this.#path);
    this.#socket = socket;
    socket.unref();
    const reader = new PacketReader();
    const greeted = new Promise<void>((resolve, reject) => {
      socket.on('error', reject);
      socket.on('data', (chunk) => {
        for (const packet of reader.push(chunk)) {
          if (packet.type === TYPE.hello) resolve();
          else this.#take(packet);
        }
        this.#queues.go();
      });
    });
    const hello = { version: 'urbgate', capabilities: CAPABILITIES };
    this.#send(TYPE.hello, 0, Hello.write(hello));
    await within(PLUG_SECONDS, greeted, () => 'Cannot plug in a device: QEMU does not greet');
    this.#configure(CONFIGURATION, () => this.#introduce());
    this.#queues.go();
  }

  /** Plugs it out. */
  async unplug(): Promise<void> {
    const socket = this.#socket;
    if (socket === undefined) return;
    this.#socket = undefined;
    const closed = new Promise((resolve) => socket.once('close', resolve));
    socket.destroy();
    await closed;
    this.#queues.cancelAll();
    this.#device.reset();
  }

  #send(type: number, id: number, ...parts: Uint8Array[]): void {
    this.#socket?.write(encodePacket(type, id, ...parts));
  }

  #introduce(): void {
    const {
      speed,
      class: deviceClass,
      subclass,
      protocol,
      vendorId,
      productId,
    } = this.#device.info;
    const number = SPEEDS.indexOf(speed);
    assert(number >= 0, `Cannot redirect a device of ${speed} speed`);
    this.#sendSettings();
    const identity = { class: deviceClass, subclass, protocol, vendorId, productId };
    this.#send(TYPE.deviceConnect, 0, DeviceConnect.write({ speed: number, ...identity }));
  }

  /** What the configuration and the alternate settings at hand are made of. */
  #sendSettings(): void {
    const { interfaces } = this.#device.info;
    const list = (values: number[]) => Buffer.concat([Buffer.from(values)], 32);
    const settings = {
      count: interfaces.length,
      number: list(interfaces.map((_, index) => index)),
      class: list(interfaces.map((one) => one.class)),
      subclass: list(interfaces.map(({ subclass }) => subclass)),
      protocol: list(interfaces.map(({ protocol }) => protocol)),
    };
    this.#send(TYPE.interfaceInfo, 0, InterfaceInfo.write(settings));
    const type = Buffer.alloc(32, ENDPOINT_ABSENT);
    const owner = Buffer.alloc(32);
    const maxPacketOctets = Buffer.alloc(64);
    for (let place = 0; place < 32; place++) {
      const endpoint = this.#device.endpoint((place & 15) | ((place & 16) << 3));
      if (endpoint === undefined) continue;
      type[place] = ENDPOINT_TYPES.indexOf(endpoint.type);
      owner[place] = Math.max(0, endpoint.interfaceNumber);
      maxPacketOctets.writeUInt16LE(endpoint.maxPacketOctets, place * 2);
    }
    const interval = Buffer.alloc(32);
    const endpoints = { type, interval, interface: owner, maxPacketOctets };
    this.#send(TYPE.endpointInfo, 0, EndpointInfos.write(endpoints));
  }

  #take({ type, id, body }: Packet): void {
    switch (type) {
      case TYPE.reset:
        this.#queues.cancelAll();
        this.#device.reset();
        break;
      case TYPE.setConfiguration: {
        const value = body.readUInt8(0);
        this.#configure(value, ({ status }) => {
          this.#sendSettings();
          const answer = Buffer.from([STATUS_OF[status] ?? STATUS.ioError, value]);
          this.#send(TYPE.configurationStatus, id, answer);
        });
        break;
      }
      case TYPE.setAlternateSetting: {
        const [number = 0, alternate = 0] = body;
        const request = { requestType: 0x01, request: REQUEST.setInterface };
        const setup = { ...request, value: alternate, index: number, length: 0 };
        this.#control(this.#nextId--, setup, NO_OCTETS, ({ status }) => {
          this.#sendSettings();
          const answer = Buffer.from([STATUS_OF[status] ?? STATUS.ioError, number, alternate]);
          this.#send(TYPE.alternateSettingStatus, id, answer);
        });
        break;
      }
      case TYPE.controlPacket:
        this.#takeControl(id, body);
        break;
      case TYPE.bulkPacket:
        this.#takeBulk(id, body);
        break;
      case TYPE.cancelDataPacket:
        this.#queues.cancel(id);
        break;
      default: // a filter, an acknowledgement
    }
  }

  #configure(value: number, done: (urb: Urb) => void): void {
    const request = { requestType: 0x00, request: REQUEST.setConfiguration };
    this.#control(this.#nextId--, { ...request, value, index: 0, length: 0 }, NO_OCTETS, done);
  }

  #control(id: number, setup: SetupPacket, dataOut: Buffer, done: (urb: Urb) => void): void {
    const endpoint = this.#device.endpoint(0) as EndpointInfo;
    this.#queues.submit(Urb.control(id, endpoint, setup, dataOut), done);
  }

  #takeControl(id: number, body: Buffer): void {
    const header = ControlPacket.read(body);
    const { requestType, request, value, index, length } = header;
    const dataOut = Buffer.from(body.subarray(ControlPacket.octets));
    const setup = { requestType, request, value, index, length };
    this.#control(id, setup, dataOut, ({ status, actualOctets, dataIn }) => {
      const answer = { status: STATUS_OF[status] ?? STATUS.ioError, length: actualOctets };
      this.#send(TYPE.controlPacket, id, ControlPacket.write({ ...header, ...answer }), dataIn);
    });
  }

  #takeBulk(id: number, body: Buffer): void {
    const header = BulkPacket.read(body);
    const octets = header.length + header.lengthHigh * 0x10000;
    const endpoint = this.#device.endpoint(header.endpoint);
    const answer = (status: number, moved: number, dataIn: Uint8Array) => {
      const length = { length: moved & 0xffff, lengthHigh: moved >>> 16 };
      this.#send(TYPE.bulkPacket, id, BulkPacket.write({ ...header, status, ...length }), dataIn);
    };
    if (endpoint === undefined) {
      answer(STATUS.invalid, 0, NO_OCTETS);
      return;
    }
    const urb =
      endpoint.direction === 'in'
        ? Urb.read(id, endpoint, octets)
        : Urb.write(id, endpoint, Buffer.from(body.subarray(BulkPacket.octets)));
    this.#queues.submit(urb, ({ status, actualOctets, dataIn }) => {
      answer(STATUS_OF[status] ?? STATUS.ioError, actualOctets, dataIn);
    });
  }
}
