import { strict as assert } from 'node:assert';
import { IOCTL, UsbfsPacket, UsbfsUrb } from '../../../../src/core/devices/usbfs/abi.ts';

describe('usbfs: numbers and structures', () => {
  it('are those that a C compiler makes of linux/usbdevice_fs.h', () => {
    assert.deepEqual(IOCTL, {
      setInterface: 0x80085504,
      setConfiguration: 0x80045505,
      getDriver: 0x41045508,
      submitUrb: 0x8038550a,
      discardUrb: 0x0000550b,
      reapUrbNoDelay: 0x4008550d,
      releaseInterface: 0x80045510,
      ioctl: 0xc0105512,
      reset: 0x00005514,
      clearHalt: 0x80045515,
      connect: 0x00005517,
      disconnectClaim: 0x8108551b,
    });
    const { status, flags, buffer, actualOctets, packetCount, userContext } = UsbfsUrb.offsets;
    assert.deepEqual(
      [status, flags, buffer, actualOctets, packetCount, userContext, UsbfsUrb.octets],
      [4, 8, 16, 28, 36, 48, 56],
    );
    assert.equal(UsbfsPacket.octets, 12);
  });
});
