/** The disk under the engine that serves it: URBs, control requests, reset, unlink and close. */
import { strict as assert } from 'node:assert';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import type { EndpointInfo } from '../../../../../src/core/device.ts';
import {
  type Backing,
  MemoryBacking,
} from '../../../../../src/core/devices/virtual/disk/backing.ts';
import { CBW, CBW_SIGNATURE, CSW } from '../../../../../src/core/devices/virtual/disk/bot.ts';
import { BULK_IN, BULK_OUT, type Disk } from '../../../../../src/core/devices/virtual/disk/disk.ts';
import { openImage } from '../../../../../src/core/devices/virtual/disk/file-backing.ts';
import { defineDisk } from '../../../../../src/core/devices/virtual/disk/kind.ts';
import { VirtualDevice } from '../../../../../src/core/devices/virtual/virtual-device.ts';
import { Urb } from '../../../../../src/core/urb.ts';
import { assertOctets, assertZeros, cdb10, IDENTITY, pattern } from './host.ts';

const SET_CONFIGURATION = { requestType: 0x00, request: 9, value: 1, index: 0, length: 0 };
const clearHalt = (address: number) => ({
  requestType: 0x02,
  request: 1,
  value: 0,
  index: address,
  length: 0,
});
const getStatus = (address: number) => ({
  requestType: 0x82,
  request: 0,
  value: 0,
  index: address,
  length: 2,
});
const MASS_STORAGE_RESET = { requestType: 0x21, request: 0xff, value: 0, index: 0, length: 0 };
const GET_MAX_LUN = { requestType: 0xa1, request: 0xfe, value: 0, index: 0, length: 1 };

class Client {
  readonly device: VirtualDevice<Disk>;
  readonly #ended = new Map<Urb, (urb: Urb) => void>();
  #id = 0;

  constructor(backing: Backing) {
    const definition = defineDisk({ backing, blockOctets: 512, speed: 'high', identity: IDENTITY });
    this.device = new VirtualDevice(definition, {
      onFault: (error) => {
        throw error;
      },
    });
  }

  async open(): Promise<void> {
    this.device.open({
      completed: (urb) => this.#ended.get(urb)?.(urb),
      removed: () => assert.fail('removed'),
      failed: (error) => assert.fail(`failed: ${error}`),
    });
    assert.equal((await this.control(SET_CONFIGURATION)).status, 'ok');
  }

  submit(urb: Urb): Promise<Urb> {
    return new Promise((resolve) => {
      this.#ended.set(urb, resolve);
      this.device.submit(urb);
    });
  }

  control(setup: NonNullable<Urb['setup']>): Promise<Urb> {
    return this.submit(Urb.control(++this.#id, this.#endpoint(0), setup));
  }

  readUrb = (octets: number) => Urb.read(++this.#id, this.#endpoint(BULK_IN), octets);
  writeUrb = (octets: Buffer) => Urb.write(++this.#id, this.#endpoint(BULK_OUT), octets);

  cbw(cdb: readonly number[], octets: number, isIn: boolean): Urb {
    const command = Buffer.alloc(16);
    Buffer.from(cdb).copy(command);
    return this.writeUrb(
      CBW.write({
        signature: CBW_SIGNATURE,
        tag: 0xfeedbeef,
        dataOctets: octets,
        flags: isIn ? 0x80 : 0,
        unit: 0,
        commandOctets: cdb.length,
        command,
      }),
    );
  }

  async status(): Promise<number> {
    const urb = await this.submit(this.readUrb(CSW.octets));
    assert.equal(urb.status, 'ok');
    const csw = CSW.read(Buffer.from(urb.dataIn));
    assert.equal(csw.tag, 0xfeedbeef);
    return csw.status;
  }

  #endpoint(address: number): EndpointInfo {
    const endpoint = this.device.endpoint(address);
    assert(endpoint !== undefined);
    return endpoint;
  }
}

describe('disk: under the engine', () => {
  let folder = '';
  beforeEach(() => {
    folder = fs.mkdtempSync(path.join(os.tmpdir(), 'disk-engine-'));
  });
  afterEach(() => fs.rmSync(folder, { recursive: true }));

  const image = (octets: number) => {
    const file = path.join(folder, 'a.img');
    return { file, backing: openImage(file, { readonly: false, blockOctets: 512, octets }) };
  };
  const MEGABYTES = 4 << 20;

  it('writes and reads an image with the status read queued from the start', async () => {
    const { file, backing } = image(MEGABYTES);
    const client = new Client(backing);
    await client.open();
    const octets = pattern(MEGABYTES);
    const written = client.status();
    await client.submit(client.cbw(cdb10(0x2a, 0, MEGABYTES / 512), MEGABYTES, false));
    assert.equal((await client.submit(client.writeUrb(octets))).actualOctets, MEGABYTES);
    assert.equal(await written, 0);
    assertOctets(fs.readFileSync(file), octets);
    await client.submit(client.cbw(cdb10(0x28, 0, MEGABYTES / 512), MEGABYTES, true));
    const read = await client.submit(client.readUrb(MEGABYTES));
    assertOctets(Buffer.from(read.dataIn), octets);
    assert.equal(await client.status(), 0);
    await client.device.close();
    await client.device.dispose();
  });

  it('a disk in memory ends each transfer before submit returns', async () => {
    const client = new Client(new MemoryBacking(MEGABYTES));
    await client.open();
    let count = 0;
    const submit = (urb: Urb) => client.submit(urb).then(() => count++);
    const all = [
      submit(client.cbw(cdb10(0x2a, 0, 128), 65536, false)),
      submit(client.writeUrb(pattern(65536))),
      submit(client.readUrb(13)),
      submit(client.cbw(cdb10(0x28, 0, 128), 65536, true)),
      submit(client.readUrb(65536)),
      submit(client.readUrb(13)),
    ];
    await Promise.all(all);
    assert.equal(count, all.length);
  });

  it('the endpoints are halted, and stay so, until Reset Recovery', async () => {
    const client = new Client(new MemoryBacking(MEGABYTES));
    await client.open();
    const halted = async (address: number) => (await client.control(getStatus(address))).dataIn[0];
    assert.equal((await client.control(GET_MAX_LUN)).dataIn[0], 0);
    const waiting = client.submit(client.readUrb(13));
    assert.equal((await client.submit(client.writeUrb(Buffer.alloc(31)))).status, 'ok');
    assert.equal((await waiting).status, 'stall');
    for (let round = 0; round < 2; round++) {
      assert.deepEqual([await halted(BULK_IN), await halted(BULK_OUT)], [1, 1]);
      await client.control(clearHalt(BULK_IN));
      await client.control(clearHalt(BULK_OUT));
    }
    assert.equal((await client.control(MASS_STORAGE_RESET)).status, 'ok');
    assert.deepEqual([await halted(BULK_IN), await halted(BULK_OUT)], [1, 1]);
    await client.control(clearHalt(BULK_IN));
    await client.control(clearHalt(BULK_OUT));
    assert.deepEqual([await halted(BULK_IN), await halted(BULK_OUT)], [0, 0]);
    await client.submit(client.cbw([0, 0, 0, 0, 0, 0], 0, false));
    assert.equal(await client.status(), 0);
  });

  it('close finishes a write that was cut off; the next client finds a ready disk', async () => {
    const { file, backing } = image(MEGABYTES);
    const client = new Client(backing);
    await client.open();
    await client.submit(client.cbw(cdb10(0x2a, 0, MEGABYTES / 512), MEGABYTES, false));
    // One piece is being written, half a piece waits for more.
    const octets = pattern(384 << 10);
    await client.submit(client.writeUrb(octets));
    const waiting = client.readUrb(13);
    const taken = client.submit(waiting);
    client.device.unlink(waiting);
    assert.equal((await taken).status, 'unlinked');
    await client.device.close();
    const after = fs.readFileSync(file);
    assertOctets(after.subarray(0, 256 << 10), octets.subarray(0, 256 << 10));
    assertZeros(after.subarray(256 << 10));
    await client.open();
    await client.submit(client.cbw([0, 0, 0, 0, 0, 0], 0, false));
    assert.equal(await client.status(), 0);
    await client.device.close();
    await client.device.dispose();
    assert.doesNotThrow(() => image(MEGABYTES).backing.close(), 'the lock is gone');
  });
});
