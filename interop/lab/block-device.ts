/** Disks as a guest's kernel shows them, and as files of the host. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Guest } from './guest.ts';
import type { GuestProcess } from './guest-process.ts';
import { hostCommand } from './host-command.ts';
import type { GuestUsbDevice } from './local-gadget.ts';

/** Modules for disks and their file system; nothing loads them by itself in a guest. */
export const DISK_MODULES = 'modprobe -a usb-storage sd_mod ext4';

/** Waits for the block device of an attached disk. @returns its name, such as sda */
export async function blockDevice(guest: Guest, { sysfs }: GuestUsbDevice): Promise<string> {
  const name = await guest.succeed(
    `for try in $(seq 200); do
       for disk in $(find ${sysfs}/ -path '*/block/*' -name 'sd*' -maxdepth 8); do
         [ "$(cat $disk/size)" != 0 ] && [ -b /dev/\${disk##*/} ] && echo \${disk##*/} && exit 0
       done
       sleep 0.1
     done
     echo "no block device under ${sysfs}" >&2; exit 1`,
    { timeoutSeconds: 60 },
  );
  return name.trim();
}

/** Reads a disk over and over, past the cache, until it cannot or is ended; resolves when it reads. */
export async function reading(guest: Guest, disk: string): Promise<GuestProcess> {
  const load = guest.start(
    `while echo 1 > /proc/sys/vm/drop_caches && cat /dev/${disk} > /dev/null; do :; done`,
  );
  load.end();
  await new Promise((resolve) => setTimeout(resolve, 1000));
  return load;
}

/** Makes a file of the host that is a disk with a file system as `checkFiles` wants it. */
export async function makeDisk(file: string, mebibytes: number): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'urbgate-disk-'));
  const octets = randomBytes(1 << 20);
  writeFileSync(join(folder, 'file1'), octets);
  const digest = createHash('sha256').update(octets).digest('hex');
  writeFileSync(join(folder, 'sums'), `${digest}  file1\n`);
  await hostCommand('truncate', ['-s', `${mebibytes}M`, file]);
  await hostCommand('mkfs.ext4', ['-q', '-F', '-d', folder, file]);
  rmSync(folder, { recursive: true });
}

/** Makes a file system on a disk, writes four files, and reads them back past the cache. */
export async function writeFiles(guest: Guest, disk: string, mebibytes: number): Promise<void> {
  await guest.succeed(
    `mkfs.ext4 -q -F /dev/${disk} && mount /dev/${disk} /mnt &&
     for n in 1 2 3 4; do head -c ${mebibytes * 262144} /dev/urandom > /mnt/file$n; done
     cd /mnt && sha256sum file* > sums && cd / && umount /mnt &&
     echo 3 > /proc/sys/vm/drop_caches && mount -o ro /dev/${disk} /mnt &&
     cd /mnt && sha256sum -c --quiet sums && cd / && umount /mnt`,
    { timeoutSeconds: 240 },
  );
}

/** The file system and files of `writeFiles` are whole. */
export async function checkFiles(guest: Guest, disk: string): Promise<void> {
  await guest.succeed(
    `e2fsck -f -n /dev/${disk} && mount -o ro /dev/${disk} /mnt &&
     cd /mnt && sha256sum -c --quiet sums && cd / && umount /mnt`,
    { timeoutSeconds: 240 },
  );
}
