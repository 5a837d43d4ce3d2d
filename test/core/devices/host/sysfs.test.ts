import { strict as assert } from 'node:assert';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { usesOf } from '../../../../src/core/devices/host/in-use.ts';
import {
  driversOf,
  listPluggedDevices,
  nodePathOf,
  readHostDevice,
} from '../../../../src/core/devices/host/sysfs.ts';

const KEYBOARD = '10000 7 ff9f207ac14057ff febeffdfffefffff fffffffffffffffe';
const BUTTON = '10000000000000 0';

describe('devices of this machine, by sysfs', () => {
  let root: string;

  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), 'urbgate-sysfs-'));
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  function put(files: Record<string, string>): void {
    for (const [name, text] of Object.entries(files)) {
      const path = join(root, name);
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, `${text}\n`);
    }
  }

  function plug(name: string, more: Record<string, string> = {}): void {
    const attributes = {
      ...{ busnum: '1', devnum: '12', speed: '480', idVendor: '0951', idProduct: '1666' },
      ...{ bDeviceClass: '00', bConfigurationValue: '1', ...more },
    };
    const files = Object.entries(attributes).map(([key, text]) => [`usb/${name}/${key}`, text]);
    put(Object.fromEntries(files));
  }

  it('lists devices, not interfaces and root hubs', async () => {
    plug('1-1', { manufacturer: 'Maker', product: 'Stick', serial: 'S1' });
    plug('1-1.4', { bDeviceClass: '09', speed: '12' });
    plug('2-1', { speed: '10000', bConfigurationValue: '' });
    plug('usb1');
    plug('1-1:1.0');
    plug('3-1', { speed: 'unknown' });
    plug('3-2', { devnum: '0' });
    put({ 'platform/vhci_hcd.0/usb5/5-1/busnum': '5' });
    const remote = join(root, 'platform/vhci_hcd.0/usb5/5-1');
    put({ [`${remote.slice(root.length + 1)}/devnum`]: '3' });
    put({ [`${remote.slice(root.length + 1)}/speed`]: '480' });
    symlinkSync(remote, join(root, 'usb/5-1'));
    const found = await Promise.all(listPluggedDevices(join(root, 'usb')).map(readHostDevice));
    assert.deepEqual(
      found.map(({ busId, isHub, isRemote, speed, configurationValue, label }) =>
        [busId, isHub, isRemote, speed, configurationValue, label].join(' '),
      ),
      [
        '1-1 false false high 1 Maker Stick',
        '1-1.4 true false full 1 0951:1666',
        '2-1 false false super 0 0951:1666',
        '5-1 false true high 0 :',
      ],
    );
    assert.equal(nodePathOf(found[0] as never), '/dev/bus/usb/001/012');
  });

  it('numbers that are none, or have no place in a name of usbfs, are not believed', async () => {
    for (const [name, odd] of Object.entries({
      '1-1': { busnum: '-1' },
      '1-2': { busnum: '0x10' },
      '1-3': { devnum: '1e3' },
      '1-4': { devnum: '1234' },
      '1-5': { devnum: '../../../sda' },
      '1-6': { speed: '__proto__' },
      '1-7': { bConfigurationValue: '1e9' },
      '1-8': { bConfigurationValue: 'Infinity' },
      '1-9': { bConfigurationValue: 'x' },
    })) {
      plug(name, odd);
    }
    const found = await Promise.all(listPluggedDevices(join(root, 'usb')).map(readHostDevice));
    assert.deepEqual(
      found.map(({ busId, configurationValue }) => [busId, configurationValue]),
      [
        ['1-7', 0],
        ['1-8', 0],
        ['1-9', 0],
      ],
    );
  });

  it('no folder, no devices', () => assert.deepEqual(listPluggedDevices(join(root, 'none')), []));

  it('knows which drivers have an interface', () => {
    plug('1-1');
    put({ 'usb/1-1/1-1:1.0/bInterfaceNumber': '00', 'drivers/usb-storage/bind': '' });
    const drivers = () => driversOf(join(root, 'usb/1-1'), '1-1');
    assert.deepEqual(drivers(), []);
    symlinkSync(join(root, 'drivers/usb-storage'), join(root, 'usb/1-1/1-1:1.0/driver'));
    assert.deepEqual(drivers(), ['usb-storage']);
  });

  describe('in use', () => {
    const roots = () => ({ proc: join(root, 'proc'), inputs: join(root, 'input') });
    const uses = () => usesOf(join(root, 'usb/1-1'), roots());
    const DISK = 'usb/1-1/1-1:1.0/host0/target0:0:0/0:0:0:0/block/sda';

    function disk(): void {
      put({
        [`${DISK}/dev`]: '8:0',
        [`${DISK}/size`]: '1000',
        [`${DISK}/sda1/dev`]: '8:1',
        [`${DISK}/sda1/size`]: '900',
        'proc/self/mountinfo': '22 1 254:0 / / rw - ext4 /dev/vda rw',
        'proc/swaps': 'Filename Type',
      });
    }

    it('a disk that nothing uses is not', () => {
      disk();
      assert.deepEqual(uses(), []);
    });

    it('a partition that is mounted', () => {
      disk();
      put({ 'proc/self/mountinfo': '23 1 8:1 / /media/stick rw - vfat /dev/sda1 rw' });
      assert.deepEqual(uses(), ['/dev/sda1 is mounted on /media/stick']);
    });

    it('a file system with a number of its own', () => {
      disk();
      put({ 'proc/self/mountinfo': '23 1 0:44 / /data rw - btrfs /dev/sda rw' });
      assert.deepEqual(uses(), ['/dev/sda is mounted on /data']);
    });

    it('swap, and devices made of it', () => {
      disk();
      put({ 'proc/swaps': '/dev/sda1 partition 1 0 -2', [`${DISK}/holders/dm-0/x`]: '' });
      assert.deepEqual(uses(), ['/dev/sda belongs to dm-0', '/dev/sda1 is swapped to']);
    });

    it('a network interface that is up', () => {
      put({ 'usb/1-1/1-1:1.0/net/eth7/flags': '0x1002' });
      assert.deepEqual(uses(), []);
      put({ 'usb/1-1/1-1:1.0/net/eth7/flags': '0x1003' });
      assert.deepEqual(uses(), ['network interface eth7 is up']);
    });

    it('the only keyboard', () => {
      put({
        'usb/1-1/1-1:1.0/0003:1/input/input5/capabilities/key': KEYBOARD,
        'input/input5/capabilities/key': KEYBOARD,
        'input/input1/capabilities/key': BUTTON,
      });
      assert.deepEqual(uses(), ['it is the only keyboard']);
      put({ 'input/input9/capabilities/key': KEYBOARD });
      assert.deepEqual(uses(), []);
    });

    it('buttons are no keyboard', () => {
      put({ 'usb/1-1/1-1:1.0/0003:1/input/input5/capabilities/key': BUTTON });
      assert.deepEqual(uses(), []);
    });

    it('does not follow links', () => {
      put({ 'elsewhere/net/eth0/flags': '0x1003', 'usb/1-1/busnum': '1' });
      symlinkSync(join(root, 'elsewhere'), join(root, 'usb/1-1/link'));
      assert.deepEqual(uses(), []);
    });
  });
});
