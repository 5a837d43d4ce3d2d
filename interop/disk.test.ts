/**
 * The main job: Debian's kernel puts a file system on a disk that urbgate serves, and finds on it
 * what it wrote.
 */
import { strict as assert } from 'node:assert';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { blockDevice, DISK_MODULES } from './lab/block-device.ts';
import { startGateway } from './lab/gateway.ts';
import type { Guest } from './lab/guest.ts';
import { hostCommand } from './lab/host-command.ts';
import { sharedGuest } from './lab/shared-guest.ts';
import { attach, detach, detachAll, list, loadVhci } from './lab/usbip.ts';

describe('disk, attached with the stock usbip client', function () {
  this.timeout(300_000);
  let guest: Guest;
  let folder: string;

  before(async () => {
    guest = await sharedGuest();
    await loadVhci(guest);
    await guest.succeed(DISK_MODULES);
    folder = mkdtempSync(join(tmpdir(), 'urbgate-disk-'));
  });

  afterEach(async function () {
    await guest.run('umount /mnt 2>/dev/null');
    await detachAll(guest);
    if (this.currentTest?.isPassed()) assert.deepEqual(guest.kernelComplaints(), []);
  });

  after(() => rmSync(folder, { recursive: true, force: true }));

  it('keeps 32 MiB of files across detach and attach, and the image shows them too', async () => {
    const image = join(folder, 'disk.img');
    const gateway = await startGateway({ exports: [`virtual:disk,file=${image},size=96MiB`] });
    try {
      guest.forward(gateway.port);
      assert.deepEqual(
        (await list(guest)).map(({ busid }) => busid),
        ['1-1'],
      );
      let device = await attach(guest, '1-1');
      let disk = await blockDevice(guest, device);
      await guest.succeed(`mkfs.ext4 -q -F /dev/${disk} && mount /dev/${disk} /mnt`, {
        timeoutSeconds: 120,
      });
      await guest.succeed(
        `for n in $(seq 8); do head -c 4194304 /dev/urandom > /mnt/file$n; done
         cd /mnt && sha256sum file* > /run/sums && cp /run/sums /mnt/sums && sync && cd / && umount /mnt`,
        { timeoutSeconds: 120 },
      );
      await detach(guest, device.port);

      device = await attach(guest, '1-1');
      disk = await blockDevice(guest, device);
      await guest.succeed(`e2fsck -f -n /dev/${disk}`, { timeoutSeconds: 60 });
      await guest.succeed(`mount -o ro /dev/${disk} /mnt && cd /mnt && sha256sum -c /run/sums`, {
        timeoutSeconds: 60,
      });
      await guest.succeed('umount /mnt');
      await detach(guest, device.port);
      await gateway.stop();
      await checkImage(image);
    } finally {
      await gateway.kill();
    }
  });

  /** Reads the image on the host, where no kernel driver is between. */
  async function checkImage(image: string): Promise<void> {
    await hostCommand('e2fsck', ['-f', '-n', image]);
    const dump = mkdtempSync(join(folder, 'dump-'));
    await hostCommand('debugfs', ['-R', `rdump / ${dump}`, image]);
    await hostCommand('sha256sum', ['-c', 'sums'], { folder: dump });
  }

  it('refuses writes on a read-only disk', async () => {
    const image = join(folder, 'readonly.img');
    await hostCommand('truncate', ['-s', '8M', image]);
    await hostCommand('mkfs.ext4', ['-q', image]);
    const gateway = await startGateway({
      exports: [`virtual:disk,file=${image},readonly`],
    });
    try {
      guest.forward(gateway.port);
      const disk = await blockDevice(guest, await attach(guest, '1-1'));
      assert.equal((await guest.succeed(`cat /sys/block/${disk}/ro`)).trim(), '1');
      assert.notEqual((await guest.run(`mount -o rw /dev/${disk} /mnt && touch /mnt/x`)).code, 0);
      await guest.run('umount /mnt 2>/dev/null');
      await guest.succeed(`mount -o ro /dev/${disk} /mnt && ls /mnt/lost+found`);
    } finally {
      await gateway.kill();
    }
  });

  it('shows a disk beyond 2 TiB, and keeps what is written at its end', async () => {
    const gateway = await startGateway({ exports: ['virtual:disk,size=3TiB,speed=super'] });
    try {
      guest.forward(gateway.port);
      const disk = await blockDevice(guest, await attach(guest, '1-1'));
      const octets = 3 * 2 ** 40;
      assert.equal(Number(await guest.succeed(`blockdev --getsize64 /dev/${disk}`)), octets);
      const last = octets / 4096 - 1;
      await guest.succeed(
        `head -c 4096 /dev/urandom > /run/block
         dd if=/run/block of=/dev/${disk} bs=4096 seek=${last} oflag=direct 2>/dev/null &&
         dd if=/dev/${disk} bs=4096 skip=${last} count=1 iflag=direct 2>/dev/null | cmp - /run/block`,
        { timeoutSeconds: 60 },
      );
    } finally {
      await gateway.kill();
    }
  });

  it('a disk that may occupy no more memory is full, until zeros are written', async () => {
    const gateway = await startGateway({ exports: ['virtual:disk,size=1TiB,memory=1MiB'] });
    try {
      guest.forward(gateway.port);
      const disk = await blockDevice(guest, await attach(guest, '1-1'));
      const write = `dd if=/dev/urandom of=/dev/${disk} bs=64k count=32 oflag=direct`;
      const full = await guest.run(`${write} 2>&1`, { timeoutSeconds: 60 });
      assert.notEqual(full.code, 0);
      assert.match(full.stdout, /No space left on device/);
      await guest.succeed(
        `dd if=/dev/zero of=/dev/${disk} bs=64k count=16 oflag=direct 2>/dev/null`,
        { timeoutSeconds: 60 },
      );
      await guest.succeed(`${write.replace('count=32', 'count=8')} 2>/dev/null`, {
        timeoutSeconds: 60,
      });
    } finally {
      await gateway.kill();
    }
  });
});
