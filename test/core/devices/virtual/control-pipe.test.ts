import { strict as assert } from 'node:assert';
import type { DeviceDefinition } from '../../../../src/core/devices/virtual/definition.ts';
import { ack, fail, stall } from '../../../../src/core/devices/virtual/definition.ts';
import { VirtualDevice } from '../../../../src/core/devices/virtual/virtual-device.ts';
import type { UrbStatus } from '../../../../src/core/urb.ts';
import { Rig, setup } from '../../../examples/rig.ts';
import {
  BULK_IN,
  BULK_OUT,
  INTERRUPT_IN,
  ISO_IN,
  OTHER_IN,
  type Script,
  scriptedDevice,
  VENDOR_IN,
  VENDOR_OUT,
} from '../../scripted-device.ts';

const GET_STATUS = 0;
const CLEAR_FEATURE = 1;
const SET_FEATURE = 3;
const SET_ADDRESS = 5;
const GET_DESCRIPTOR = 6;
const SET_DESCRIPTOR = 7;
const GET_CONFIGURATION = 8;
const SET_CONFIGURATION = 9;
const GET_INTERFACE = 10;
const SET_INTERFACE = 11;
const SYNCH_FRAME = 12;

const rigOf = (changes: Partial<DeviceDefinition<Script>> = {}): Rig<Script> =>
  new Rig({ ...scriptedDevice(), ...changes });

/** Sends a request without data; how it ended. */
async function out(
  rig: Rig<Script>,
  ...packet: [number, number, number, number]
): Promise<UrbStatus> {
  return (await rig.control(setup(...packet, 0))).status;
}

/** Reads up to 255 octets; their hex, or how the request failed. */
async function ask(rig: Rig<Script>, ...packet: [number, number, number, number]): Promise<string> {
  const urb = await rig.control(setup(...packet, 255));
  return urb.status === 'ok' ? Buffer.from(urb.dataIn).toString('hex') : urb.status;
}

describe('control pipe (USB 2.0, 9.4)', () => {
  describe('GET_DESCRIPTOR', () => {
    it('device, cut to wLength', async () => {
      const rig = rigOf();
      const whole = await ask(rig, 0x80, GET_DESCRIPTOR, 0x0100, 0);
      assert.equal(whole.length, 36);
      assert.equal(whole.slice(0, 4), '1201');
      const urb = await rig.control(setup(0x80, GET_DESCRIPTOR, 0x0100, 0, 8));
      assert.equal(Buffer.from(urb.dataIn).toString('hex'), whole.slice(0, 16));
      assert.equal(urb.actualOctets, 8);
    });

    it('configurations by their place, and none beyond', async () => {
      const rig = rigOf();
      assert.match(await ask(rig, 0x80, GET_DESCRIPTOR, 0x0200, 0), /^0902....0201/);
      assert.match(await ask(rig, 0x80, GET_DESCRIPTOR, 0x0201, 0), /^0902....0102/);
      assert.equal(await ask(rig, 0x80, GET_DESCRIPTOR, 0x0202, 0), 'stall');
    });

    it('strings, whatever the language, and none beyond', async () => {
      const rig = rigOf();
      assert.equal(await ask(rig, 0x80, GET_DESCRIPTOR, 0x0300, 0), '04030904');
      assert.match(await ask(rig, 0x80, GET_DESCRIPTOR, 0x0303, 0x0407), /^04033700$/);
      assert.match(await ask(rig, 0x80, GET_DESCRIPTOR, 0x0304, 0x0409), /^0a037a00/, 'iInterface');
      assert.equal(await ask(rig, 0x80, GET_DESCRIPTOR, 0x0305, 0), 'stall');
      assert.equal(await ask(rig, 0x80, GET_DESCRIPTOR, 0x03ff, 0), 'stall');
    });

    it('qualifier and other speed at high speed only, BOS at super speed only', async () => {
      for (const speed of ['full', 'high', 'super', 'super-plus'] as const) {
        const rig = rigOf({ speed });
        const high = speed === 'high';
        const qualifier = await ask(rig, 0x80, GET_DESCRIPTOR, 0x0600, 0);
        assert.match(qualifier, high ? /^0a06/ : /^stall$/);
        assert.match(await ask(rig, 0x80, GET_DESCRIPTOR, 0x0700, 0), high ? /^0907/ : /^stall$/);
        assert.equal(await ask(rig, 0x80, GET_DESCRIPTOR, 0x0702, 0), 'stall');
        const superSpeed = speed.startsWith('super');
        assert.match(
          await ask(rig, 0x80, GET_DESCRIPTOR, 0x0f00, 0),
          superSpeed ? /^050f/ : /^stall$/,
        );
        assert.match(await ask(rig, 0x80, GET_DESCRIPTOR, 0x0200, 0), /^0902/, 'not spoiled');
      }
    });

    it('unknown types, and from an interface, stall', async () => {
      const rig = rigOf();
      for (const type of [0, 4, 5, 8, 0x21, 0x22, 0x29, 0xff]) {
        assert.equal(await ask(rig, 0x80, GET_DESCRIPTOR, type << 8, 0), 'stall');
      }
      assert.equal(await ask(rig, 0x81, GET_DESCRIPTOR, 0x0100, 0), 'stall');
      assert.equal(await ask(rig, 0x82, GET_DESCRIPTOR, 0x0100, 0), 'stall');
    });
  });

  describe('a port reset sent to the device (is_reset_device_cmd of the kernel’s stub)', () => {
    const portReset = [0x23, SET_FEATURE, 4, 1] as const;

    it('clears halts and keeps configuration and alternate setting', async () => {
      const rig = rigOf();
      await rig.configure([0, 1]);
      assert.equal(await out(rig, 2, SET_FEATURE, 0, BULK_IN), 'ok');
      rig.state.take();
      assert.equal(await out(rig, ...portReset), 'ok');
      assert.equal(await ask(rig, 0x80, GET_CONFIGURATION, 0, 0), '01');
      assert.equal(await ask(rig, 0x81, GET_INTERFACE, 0, 0), '01');
      assert.equal(await ask(rig, 0x82, GET_STATUS, 0, BULK_IN), '0000');
      assert(rig.state.take().includes('reset'));
    });

    it('leaves a device that is not configured so, and no other feature is taken', async () => {
      const rig = rigOf();
      assert.equal(await out(rig, ...portReset), 'ok');
      assert.equal(await ask(rig, 0x80, GET_CONFIGURATION, 0, 0), '00');
      assert.equal(await out(rig, 0x23, SET_FEATURE, 8, 1), 'stall');
      assert.equal(await out(rig, 0x23, CLEAR_FEATURE, 4, 1), 'stall');
    });
  });

  describe('SET_CONFIGURATION and GET_CONFIGURATION', () => {
    it('begin at 0; choose by value; forget with 0', async () => {
      const rig = rigOf();
      assert.equal(await ask(rig, 0x80, GET_CONFIGURATION, 0, 0), '00');
      assert.equal(rig.device.endpoint(BULK_IN), undefined);
      await rig.configure();
      assert.equal(await ask(rig, 0x80, GET_CONFIGURATION, 0, 0), '01');
      assert(rig.device.endpoint(BULK_IN));
      assert.equal(await out(rig, 0, SET_CONFIGURATION, 2, 0), 'ok');
      assert.equal(rig.device.endpoint(BULK_IN), undefined);
      assert(rig.device.endpoint(OTHER_IN));
      assert.equal(rig.device.info.configurationValue, 2);
      assert.equal(await out(rig, 0, SET_CONFIGURATION, 0, 0), 'ok');
      assert.equal(rig.device.endpoint(OTHER_IN), undefined);
      assert.equal(rig.device.info.configurationValue, 1, 'the list shows the first');
      assert.deepEqual(rig.state.take(), ['reset', 'reset', 'reset']);
    });

    it('interfaces of another configuration are gone', async () => {
      const rig = rigOf();
      await rig.configure();
      for (const value of [2, 0]) {
        assert.equal(await out(rig, 0, SET_CONFIGURATION, value, 0), 'ok');
        assert.equal(await ask(rig, 0x81, GET_INTERFACE, 0, 1), 'stall');
        assert.equal(await ask(rig, 0x81, GET_STATUS, 0, 1), 'stall');
        assert.equal(await out(rig, 1, SET_INTERFACE, 0, 1), 'stall');
      }
    });

    it('an unknown value stalls and changes nothing', async () => {
      const rig = rigOf();
      await rig.configure();
      assert.equal(await out(rig, 0, SET_CONFIGURATION, 3, 0), 'stall');
      assert.equal(await ask(rig, 0x80, GET_CONFIGURATION, 0, 0), '01');
      assert(rig.device.endpoint(BULK_IN));
    });

    it('the same again starts afresh: setting 0, no halt', async () => {
      const rig = rigOf();
      await rig.configure([0, 1]);
      assert.equal(await out(rig, 2, SET_FEATURE, 0, OTHER_IN), 'ok');
      await rig.configure();
      assert.equal(await ask(rig, 0x81, GET_INTERFACE, 0, 0), '00');
      assert.equal(await ask(rig, 0x82, GET_STATUS, 0, BULK_IN), '0000');
      assert.equal(await ask(rig, 0x82, GET_STATUS, 0, OTHER_IN), 'stall');
    });
  });

  describe('SET_INTERFACE and GET_INTERFACE', () => {
    it('choose a setting and its endpoints', async () => {
      const rig = rigOf();
      await rig.configure();
      assert.equal(await ask(rig, 0x81, GET_INTERFACE, 0, 0), '00');
      assert.equal(await out(rig, 1, SET_INTERFACE, 1, 0), 'ok');
      assert.equal(await ask(rig, 0x81, GET_INTERFACE, 0, 0), '01');
      assert.deepEqual(
        [BULK_IN, BULK_OUT, INTERRUPT_IN, OTHER_IN].map((at) => rig.device.endpoint(at)?.type),
        ['bulk', undefined, undefined, 'bulk'],
      );
      assert.equal(await out(rig, 1, SET_INTERFACE, 0, 0), 'ok');
      assert.equal(rig.device.endpoint(OTHER_IN), undefined);
      assert.equal(await out(rig, 1, SET_INTERFACE, 0, 1), 'ok', 'an interface of one setting');
      assert.deepEqual(rig.state.take().slice(1), [
        'interface 0 1',
        'interface 0 0',
        'interface 1 0',
      ]);
    });

    it('stall for an unknown setting or interface, and when not configured', async () => {
      const rig = rigOf();
      assert.equal(await out(rig, 1, SET_INTERFACE, 0, 0), 'stall');
      assert.equal(await ask(rig, 0x81, GET_INTERFACE, 0, 0), 'stall');
      await rig.configure([0, 1]);
      for (const [alternate, number] of [
        [3, 0],
        [1, 1],
        [0, 2],
      ] as const) {
        assert.equal(await out(rig, 1, SET_INTERFACE, alternate, number), 'stall');
      }
      assert.equal(await ask(rig, 0x81, GET_INTERFACE, 0, 2), 'stall');
      assert.equal(await ask(rig, 0x81, GET_INTERFACE, 0, 0), '01', 'nothing changed');
    });

    it('clears halts of its interface’s endpoints (USB 2.0, 9.1.1.5)', async () => {
      const rig = rigOf();
      await rig.configure();
      assert.equal(await out(rig, 2, SET_FEATURE, 0, BULK_IN), 'ok');
      await rig.select(0, 0);
      assert.equal(await ask(rig, 0x82, GET_STATUS, 0, BULK_IN), '0000');
    });
  });

  describe('GET_STATUS', () => {
    it('of the device: self-powered, remote wakeup', async () => {
      const rig = rigOf();
      assert.equal(await ask(rig, 0x80, GET_STATUS, 0, 0), '0100');
      assert.equal(await out(rig, 0, SET_FEATURE, 1, 0), 'ok');
      assert.equal(await ask(rig, 0x80, GET_STATUS, 0, 0), '0300');
      assert.equal(await out(rig, 0, CLEAR_FEATURE, 1, 0), 'ok');
      assert.equal(await ask(rig, 0x80, GET_STATUS, 0, 0), '0100');
      await rig.configure();
      assert.equal(await out(rig, 0, SET_CONFIGURATION, 2, 0), 'ok');
      assert.equal(await ask(rig, 0x80, GET_STATUS, 0, 0), '0000');
      assert.equal(await out(rig, 0, SET_FEATURE, 1, 0), 'stall', 'it cannot wake');
    });

    it('of an interface: zeros, if it is there', async () => {
      const rig = rigOf();
      assert.equal(await ask(rig, 0x81, GET_STATUS, 0, 0), 'stall');
      await rig.configure();
      assert.equal(await ask(rig, 0x81, GET_STATUS, 0, 1), '0000');
      assert.equal(await ask(rig, 0x81, GET_STATUS, 0, 2), 'stall');
    });

    it('of an endpoint: halted or not, if it is there', async () => {
      const rig = rigOf();
      assert.equal(await ask(rig, 0x82, GET_STATUS, 0, 0), '0000');
      assert.equal(await ask(rig, 0x82, GET_STATUS, 0, 0x80), '0000');
      assert.equal(await ask(rig, 0x82, GET_STATUS, 0, BULK_IN), 'stall');
      await rig.configure();
      assert.equal(await ask(rig, 0x82, GET_STATUS, 0, BULK_IN), '0000');
      assert.equal(await out(rig, 2, SET_FEATURE, 0, BULK_IN), 'ok');
      assert.equal(await ask(rig, 0x82, GET_STATUS, 0, BULK_IN), '0100');
      assert.equal(await ask(rig, 0x82, GET_STATUS, 0, 0x01), 'stall', 'the other direction');
      assert.equal(await ask(rig, 0x83, GET_STATUS, 0, 0), 'stall', 'other');
    });
  });

  describe('ENDPOINT_HALT', () => {
    it('is set and cleared, and the device is told', async () => {
      const rig = rigOf();
      await rig.configure();
      const waiting = rig.read(INTERRUPT_IN, 8);
      assert.equal(await out(rig, 2, SET_FEATURE, 0, INTERRUPT_IN), 'ok');
      assert.equal((await waiting).status, 'stall');
      assert.equal((await rig.read(INTERRUPT_IN, 8)).status, 'stall');
      assert.equal(await out(rig, 2, CLEAR_FEATURE, 0, INTERRUPT_IN), 'ok');
      rig.state.answer(INTERRUPT_IN, Buffer.from('x'));
      assert.equal((await rig.read(INTERRUPT_IN, 8)).status, 'ok');
      assert(rig.state.take().includes('clear-halt 83'));
    });

    it('of endpoint 0 means nothing; of isochronous and unknown ones is refused', async () => {
      const rig = rigOf();
      await rig.configure();
      assert.equal(await out(rig, 2, SET_FEATURE, 0, 0), 'ok');
      assert.equal(await ask(rig, 0x82, GET_STATUS, 0, 0), '0000');
      for (const request of [SET_FEATURE, CLEAR_FEATURE]) {
        assert.equal(await out(rig, 2, request, 0, ISO_IN), 'stall');
        assert.equal(await out(rig, 2, request, 0, OTHER_IN), 'stall');
        assert.equal(await out(rig, 2, request, 1, BULK_IN), 'stall', 'another feature');
      }
    });
  });

  it('other features stall: TEST_MODE, those of super speed at full speed, of "other"', async () => {
    const rig = rigOf();
    await rig.configure();
    assert.equal(await out(rig, 0, SET_FEATURE, 2, 0x0100), 'stall');
    assert.equal(await out(rig, 0, SET_FEATURE, 48, 0), 'stall');
    assert.equal(await out(rig, 1, SET_FEATURE, 0, 0), 'stall');
    assert.equal(await out(rig, 3, SET_FEATURE, 0, 0), 'stall');
  });

  it('requests of super speed are taken at super speed only', async () => {
    const fast = rigOf({ speed: 'super' });
    const slow = rigOf({ speed: 'high' });
    for (const [rig, expected] of [
      [fast, 'ok'],
      [slow, 'stall'],
    ] as const) {
      assert.equal(await out(rig, 0, SET_FEATURE, 48, 0), expected);
      assert.equal(await out(rig, 0, CLEAR_FEATURE, 49, 0), expected);
      assert.equal(await out(rig, 1, SET_FEATURE, 0, 0), expected);
      assert.equal(await out(rig, 0, 49, 40, 0), expected, 'SET_ISOCH_DELAY');
      const sel = await rig.control(setup(0, 48, 0, 0, 6), Buffer.alloc(6));
      assert.equal(sel.status, expected, 'SET_SEL');
    }
  });

  it('SET_ADDRESS is taken; SET_DESCRIPTOR, SYNCH_FRAME and unknown ones stall', async () => {
    const rig = rigOf();
    await rig.configure();
    assert.equal(await out(rig, 0, SET_ADDRESS, 5, 0), 'ok');
    assert.equal(await ask(rig, 0x80, GET_CONFIGURATION, 0, 0), '01');
    const descriptor = await rig.control(setup(0, SET_DESCRIPTOR, 0x100, 0, 1), Buffer.alloc(1));
    assert.equal(descriptor.status, 'stall');
    assert.equal(await ask(rig, 0x82, SYNCH_FRAME, 0, ISO_IN), 'stall');
    for (const request of [2, 4, 13, 0xff]) {
      assert.equal(await out(rig, 0, request, 0, 0), 'stall');
      assert.equal(await ask(rig, 0x80, request, 0, 0), 'stall');
    }
    assert.equal(await ask(rig, 0x80, SET_CONFIGURATION, 0, 0), 'stall', 'the wrong direction');
    assert.equal(await out(rig, 0, GET_STATUS, 0, 0), 'stall', 'the wrong direction');
  });

  it('a reset leaves the configuration and forgets remote wakeup', async () => {
    const rig = rigOf();
    await rig.configure([0, 1]);
    assert.equal(await out(rig, 0, SET_FEATURE, 1, 0), 'ok');
    rig.device.reset();
    assert.equal(await ask(rig, 0x80, GET_CONFIGURATION, 0, 0), '00');
    assert.equal(await ask(rig, 0x80, GET_STATUS, 0, 0), '0100');
    assert.equal(rig.device.endpoint(OTHER_IN), undefined);
  });

  describe('rows of the definition', () => {
    it('match by type, direction, recipient and index; what none matches is stalled', async () => {
      const rig = rigOf();
      rig.state.answer(0x80, Buffer.from('yes'));
      assert.equal(await ask(rig, 0xc1, VENDOR_IN, 0, 9), Buffer.from('yes').toString('hex'));
      assert.equal(await ask(rig, 0xa0, VENDOR_IN, 0, 0), 'stall', 'class');
      assert.equal(await ask(rig, 0xe0, VENDOR_IN, 0, 0), 'stall', 'reserved type');
      assert.equal(await ask(rig, 0x80, VENDOR_IN, 0, 0), 'stall', 'standard');
      assert.equal(await out(rig, 0x40, VENDOR_IN, 0, 0), 'stall', 'direction');
      assert.equal(await out(rig, 0x40, VENDOR_OUT, 0, 0), 'ok');
      assert.equal(await out(rig, 0x40, VENDOR_OUT, 0, 1), 'stall', 'index');
      assert.equal(await out(rig, 0x41, VENDOR_OUT, 0, 0), 'stall', 'recipient');
      assert.deepEqual(rig.state.take(), ['vendor in 255', 'vendor out 0']);
    });

    it('go before the engine’s own answers', async () => {
      const rig = rigOf({
        onControl: [
          {
            direction: 'in',
            type: 'standard',
            request: GET_STATUS,
            answer: () => Buffer.from([7]),
          },
          { direction: 'out', type: 'standard', request: SET_CONFIGURATION, answer: () => stall },
        ],
      });
      assert.equal(await ask(rig, 0x80, GET_STATUS, 0, 0), '07');
      assert.equal(await out(rig, 0, SET_CONFIGURATION, 1, 0), 'stall');
    });

    it('an answer longer than wLength is cut', async () => {
      const rig = rigOf();
      rig.state.answer(0x80, Buffer.from('0123456789'));
      const urb = await rig.control(setup(0xc0, VENDOR_IN, 0, 0, 4));
      assert.equal(Buffer.from(urb.dataIn).toString(), '0123');
      assert.deepEqual([urb.status, urb.actualOctets], ['ok', 4]);
    });

    it('may wait: nak, until endpoint 0 is woken', async () => {
      const rig = rigOf();
      const waiting = rig.control(setup(0xc0, VENDOR_IN, 0, 0, 4));
      assert.equal(rig.pending, 1);
      rig.state.bus.wake(0);
      assert.equal(rig.pending, 1);
      rig.state.wakeWith(0x80, Buffer.from('now'));
      assert.equal(Buffer.from((await waiting).dataIn).toString(), 'now');
      assert.deepEqual(rig.state.take(), Array(3).fill('vendor in 4'));
    });

    it('may fail as a bus does, and OUT tells what moved', async () => {
      const rig = rigOf();
      rig.state.answer(0x80, fail('timeout'));
      assert.equal(await ask(rig, 0xc0, VENDOR_IN, 0, 0), 'timeout');
      const octets = Buffer.from('abc');
      const good = await rig.control(setup(0x40, VENDOR_OUT, 0, 0, 3), octets);
      assert.deepEqual([good.status, good.actualOctets], ['ok', 3]);
      rig.state.answer(0, stall);
      const bad = await rig.control(setup(0x40, VENDOR_OUT, 0, 0, 3), octets);
      assert.deepEqual([bad.status, bad.actualOctets], ['stall', 0]);
      rig.state.answer(0x80, ack);
      const none = await rig.control(setup(0xc0, VENDOR_IN, 0, 0, 3));
      assert.deepEqual([none.status, none.actualOctets], ['ok', 0]);
    });

    it('an exception is the device’s fault, and ends the request', async () => {
      const rig = rigOf();
      rig.state.answer(0x80, new Error('a bug'));
      const urb = await rig.control(setup(0xc0, VENDOR_IN, 0, 0, 3));
      assert.deepEqual([urb.status, urb.actualOctets, urb.dataIn.length], ['protocol-error', 0, 0]);
      assert.equal(rig.faults.length, 1);
      assert.equal(await ask(rig, 0x80, GET_CONFIGURATION, 0, 0), '00');
    });
  });

  it('shows what it is', () => {
    const { info } = new VirtualDevice(scriptedDevice());
    assert.equal(info.label, 'urbgate Scripted');
    assert.deepEqual([info.vendorId, info.productId, info.deviceVersion], [0x1209, 1, 0x0203]);
    assert.deepEqual([info.configurationValue, info.configurationCount], [1, 2]);
    const shown = info.interfaces.map((one) => [one.class, one.subclass, one.protocol]);
    assert.deepEqual(shown, [
      [0xff, 1, 2],
      [3, 0, 0],
    ]);
  });
});
