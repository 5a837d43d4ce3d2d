/** Disks as a guest's kernel shows them. */
import type { Guest } from './guest.ts';
import type { GuestProcess } from './guest-process.ts';
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
