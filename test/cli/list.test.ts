import { strict as assert } from 'node:assert';
import { execFile } from 'node:child_process';
import { existsSync } from 'node:fs';
import { promisify } from 'node:util';
import { listLines } from '../../src/cli/list.ts';
import { UsbIds } from '../../src/cli/usb-ids.ts';
import type { ListedDevice } from '../../src/usbip/list-client.ts';
import { endAll, PATIENCE_MILLISECONDS, run, startGateway } from './urbgate.ts';

const STOCK = ['/usr/sbin/usbip', '/usr/bin/usbip'].find((path) => existsSync(path));
/** One of each kind: classes at the device and at interfaces, one to four interfaces. */
const ALL = ['disk,size=1MiB', 'keyboard', 'serial', 'audio', 'source-sink'];

describe('urbgate list', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  afterEach(endAll);

  it('prints what the stock tool prints', async function () {
    if (STOCK === undefined) this.skip();
    const { port } = await startGateway(ALL.map((kind) => `virtual:${kind}`));
    const args = ['--tcp-port', String(port), 'list', '-r', '127.0.0.1'];
    const stock = await promisify(execFile)(STOCK, args);
    const ours = await run(['list', '-r', `127.0.0.1:${port}`]);
    assert.equal(ours.stdout, stock.stdout);
    assert.equal(ours.code, 0);
  });

  it('has a form for programs', async () => {
    const { port } = await startGateway(['virtual:source-sink,busid=2-7']);
    const { stdout } = await run(['list', '--remote', `127.0.0.1:${port}`, '--json']);
    const [device, ...others] = JSON.parse(stdout);
    assert.equal(others.length, 0);
    assert.equal(device.busId, '2-7');
    assert.equal(device.deviceId, '0525:a4a0');
    assert.equal(device.speed, 'high');
    assert.equal(device.interfaces.length, 1);
  });

  it('says that there is nothing', async () => {
    const { port } = await startGateway([]);
    const { stdout } = await run(['list', '-r', `127.0.0.1:${port}`]);
    assert.equal(stdout, 'No exportable devices found on 127.0.0.1\n');
  });

  it('says in one sentence that nobody listens', async () => {
    const { port, process } = await startGateway([]);
    await process.stop();
    const { code, stderr } = await run(['list', '-r', `127.0.0.1:${port}`]);
    assert.match(stderr, /^Cannot list devices of 127\.0\.0\.1:\d+: nothing listens there, .*\n$/);
    assert.equal(code, 2);
  });
});

const IDS = new UsbIds(`# a comment
0525  Netchip Technology, Inc.
\ta4a0  Linux-USB "Gadget Zero"
\t\t01  an interface
\ta4a1  Ethernet
1209  Generic

C 00  (Defined at Interface level)
C 03  Human Interface Device
\t01  Boot Interface Subclass
\t\t01  Keyboard
HID 21  HID
\t01  no subclass
AT 0100  USB Undefined
03  outside of any list
`);

describe('names of the USB ids', () => {
  for (const [vendor, product, names] of [
    [0x0525, 0xa4a0, ['Netchip Technology, Inc.', 'Linux-USB "Gadget Zero"']],
    [0x0525, 0xa4a1, ['Netchip Technology, Inc.', 'Ethernet']],
    [0x0525, 0x0001, ['Netchip Technology, Inc.', 'unknown product']],
    [0x1209, 0xa4a0, ['Generic', 'unknown product']],
    [0xffff, 0xffff, ['unknown vendor', 'unknown product']],
  ] as const) {
    it(`${vendor.toString(16)}:${product.toString(16)} is ${names.join(', ')}`, () => {
      assert.deepEqual([IDS.vendor(vendor), IDS.product(vendor, product)], names);
    });
  }

  for (const [[a, b, c], names] of [
    [[0, 0, 0], '(Defined at Interface level)'],
    [[3, 1, 1], 'Human Interface Device / Boot Interface Subclass / Keyboard'],
    [[3, 1, 2], 'Human Interface Device / Boot Interface Subclass / unknown protocol'],
    [[3, 0, 0], 'Human Interface Device / unknown subclass / unknown protocol'],
    [[0x21, 1, 0], 'unknown class / unknown subclass / unknown protocol'],
  ] as const) {
    it(`class ${a}/${b}/${c} is ${names}`, () => {
      assert.equal(IDS.classes({ class: a, subclass: b, protocol: c }), names);
    });
  }
});

describe('lines of a list', () => {
  const device: ListedDevice = {
    path: '/sys/x',
    busId: '10-1.2.3',
    bus: 10,
    deviceNumber: 2,
    speed: 'full',
    vendorId: 0x1209,
    productId: 1,
    deviceVersion: 0,
    class: 0,
    subclass: 0,
    protocol: 0,
    configurationValue: 1,
    configurationCount: 1,
    interfaces: [{ class: 3, subclass: 1, protocol: 1 }],
  };

  it('stand where the stock tool has them', () => {
    assert.deepEqual(listLines('::1', [device], IDS), [
      'Exportable USB devices',
      '======================',
      ' - ::1',
      '   10-1.2.3: Generic : unknown product (1209:0001)',
      '           : /sys/x',
      '           : (Defined at Interface level) (00/00/00)',
      '           :  0 - Human Interface Device / Boot Interface Subclass / Keyboard (03/01/01)',
      '',
    ]);
  });
});
