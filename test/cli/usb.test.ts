import { strict as assert } from 'node:assert';
import { endAll, PATIENCE_MILLISECONDS, run, startGateway } from './urbgate.ts';

describe('usb: on the command line', function () {
  this.timeout(PATIENCE_MILLISECONDS);
  afterEach(endAll);

  it('urbgate udev-rule prints a rule', async () => {
    const { code, stdout } = await run(['udev-rule', 'usb:0951:1666', '--group', 'dialout']);
    assert.equal(code, 0);
    assert.match(stdout, /^SUBSYSTEM=="usb", .*ATTR\{idProduct\}=="1666".*GROUP="dialout"/m);
  });

  const mistakes: [string[], RegExp][] = [
    [['udev-rule', 'virtual:disk'], /^Cannot print a udev rule for virtual:disk: wanted a SPEC/],
    [['udev-rule', 'usb:1:2'], /^Cannot find usb:1:2: not a device, wanted usb:BUSID/],
    [['udev-rule', 'usb:1-1', '--group', 'a b"'], /^Cannot print a udev rule: group "a b""/],
    [['serve', '--export', 'usb:fffe:fffe'], /^Cannot export usb:fffe:fffe: no device matches/],
    [
      ['serve', '--export', 'usb:1-1,wiat'],
      /unknown option wiat, wanted one of wait, force, backend, busid/,
    ],
    [
      ['serve', '--export', 'usb:1-1,backend=libusb'],
      /^Cannot export usb:1-1,backend=libusb: backend=libusb, wanted one of usbfs, webusb/,
    ],
    [
      ['serve', '--export', 'usb:fffe:fffe,backend=webusb'],
      /^Cannot export usb:fffe:fffe,backend=webusb: no device matches/,
    ],
    [['serve', '--export', 'usb:nothing'], /^Cannot find usb:nothing: not a device/],
  ];
  for (const [args, message] of mistakes) {
    it(`urbgate ${args.join(' ')} says what is wrong`, async () => {
      const { code, stderr } = await run(args);
      assert.equal(code, 2);
      assert.match(stderr, message);
    });
  }

  it('wait: the gateway runs without the device', async () => {
    const gateway = await startGateway(['usb:fffe:fffe,wait', 'virtual:disk,size=1MiB']);
    await gateway.process.says(/Waiting for usb:fffe:fffe,wait/);
    const { stdout, stderr } = await gateway.process.stop();
    assert.match(stdout, /Exporting 1-2 virtual:disk/);
    assert.equal(stderr, '');
  });
});
