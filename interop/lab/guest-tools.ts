/**
 * Programs that nobody here wrote and that use devices through libusb: pcscd with its driver for
 * smart-card readers, opensc-tool, mtp-tools, lsusb. Guests have them at their usual places, as if
 * they were installed; the host has them in the cache only.
 */
import type { Guest } from './guest.ts';
import { hostCommand } from './host-command.ts';
import {
  ensurePackages,
  GUEST_PACKAGES,
  TOOL_HOST_PACKAGES,
  TOOL_PACKAGES,
  unpackedSet,
} from './packages.ts';

/** Gets them ready. @returns the folder that they are unpacked in */
export async function guestTools(): Promise<string> {
  await ensurePackages([...GUEST_PACKAGES, ...TOOL_HOST_PACKAGES]);
  const folder = await unpackedSet('tools_', TOOL_PACKAGES, async (temporary) => {
    await hostCommand('rm', ['-rf', `${temporary}/usr/share/doc`, `${temporary}/usr/share/man`]);
  });
  if (folder === undefined) {
    throw new Error(
      `Cannot unpack ${TOOL_PACKAGES.join(', ')}: not all are in the package lists, ` +
        'Debian 12 and apt-get update are wanted',
    );
  }
  return folder;
}

/** Puts them in their places in a guest. */
export async function installTools(guest: Guest): Promise<void> {
  const folder = await guestTools();
  await guest.succeed(
    `cp -a '${folder}/usr/.' /usr/ && cp -a '${folder}/etc/.' /etc/ && ldconfig`,
    { timeoutSeconds: 120 },
  );
}
