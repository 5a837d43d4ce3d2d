import { strict as assert } from 'node:assert';
import fc from 'fast-check';
import type { HostDevice } from '../../../../src/core/devices/host/device.ts';
import {
  exportBusId,
  matches,
  parseSelector,
  udevRule,
} from '../../../../src/core/devices/host/selector.ts';
import { UserError } from '../../../../src/core/errors.ts';

const DEVICE: HostDevice = {
  busId: '1-1.2',
  appearance: '1-1.2/7',
  vendorId: '0951',
  productId: '1666',
  serialNumber: 'A+B:7',
  isHub: false,
  isRemote: false,
  speed: 'high',
  label: 'stick',
};

describe('usb: selectors', () => {
  const fitting = [
    ...['1-1.2', '1-*', '*-1.2', '*', '0951:1666', '0951:166*', '09*:*', '*:*', '*:*:A+B:7'],
    ...['0951:1666:A*', '*:1666:*', '0951:1666:*7'],
  ];
  for (const target of fitting) {
    it(`${target} fits`, () => assert(matches(parseSelector(target), DEVICE)));
  }
  for (const target of [
    '1-1',
    '2-*',
    '1-1.2.1',
    '0951:1667',
    '1951:*',
    '0951:1666:B',
    '*:*:A.B:7',
  ]) {
    it(`${target} does not`, () => assert(!matches(parseSelector(target), DEVICE)));
  }

  it('patterns mean what regular expressions of the same form mean (property)', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', '*'), maxLength: 8 });
    const text = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 8 });
    fc.assert(
      fc.property(letters, text, (pattern, serialNumber) => {
        const wanted = new RegExp(`^${pattern.replaceAll('*', '.*')}$`).test(serialNumber);
        const found = matches(parseSelector(`*:*:${pattern}`), { ...DEVICE, serialNumber });
        assert.equal(found, wanted);
      }),
    );
  });

  it('a long serial number does not take long, whatever the pattern', () => {
    const serialNumber = 'a'.repeat(4096);
    for (const target of [`*:*:${'*a'.repeat(40)}b`, `*:*:b${'a*'.repeat(40)}`]) {
      assert(!matches(parseSelector(target), { ...DEVICE, serialNumber }));
    }
  });

  it('identifiers may be written in capitals', () => {
    assert(matches(parseSelector('0A51:166F'), { ...DEVICE, vendorId: '0a51', productId: '166f' }));
  });

  for (const target of ['0951', '0951:16666', '951:1666', 'x', '1-', '0951:', 'g000:0000', '1_1']) {
    it(`${target} is refused`, () => {
      assert.throws(
        () => parseSelector(target),
        (error) => error instanceof UserError && error.message.includes(`usb:${target}: not a`),
      );
    });
  }

  it('a place is its own bus id', () => {
    assert.equal(exportBusId(parseSelector('1-1.2'), DEVICE), '1-1.2');
    assert.equal(exportBusId(parseSelector('1-*'), DEVICE), '1-1.2');
  });

  it('identifiers make a bus id that does not depend on the place', () => {
    const elsewhere = { ...DEVICE, busId: '4-3', appearance: '4-3/99' };
    const ids = ['0951:1666', '0951:*', '*:*'].flatMap((target) =>
      [DEVICE, elsewhere].map((device) => exportBusId(parseSelector(target), device)),
    );
    assert.equal(new Set(ids).size, 1);
    assert.match(ids[0] ?? '', /^1\d\d-\d{1,3}$/);
    const bySerial = exportBusId(parseSelector('*:*:A*'), DEVICE);
    assert.notEqual(bySerial, ids[0]);
    assert.notEqual(
      bySerial,
      exportBusId(parseSelector('*:*:*'), { ...DEVICE, serialNumber: 'C' }),
    );
  });

  it('make udev rules', () => {
    const head = 'SUBSYSTEM=="usb", ENV{DEVTYPE}=="usb_device"';
    const tail = 'MODE="0660", GROUP="plugdev", TAG+="uaccess"';
    const rule = (target: string) => udevRule(parseSelector(target), 'plugdev');
    assert.equal(rule('1-*'), `${head}, KERNEL=="1-*", ${tail}`);
    assert.equal(
      rule('0951:166*:a"[b*'),
      `${head}, ATTR{idVendor}=="0951", ATTR{idProduct}=="166*", ATTR{serial}=="a??b*", ${tail}`,
    );
  });
});
