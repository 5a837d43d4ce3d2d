/** Servers for a guest on a cable to attach from: a gateway on the host, or the kernel of the guest itself. */
import type { CabledGuest } from './cable.ts';
import type { Guest } from './guest.ts';
import { exportByKernel } from './kernel-stub.ts';
import type { Gadget } from './local-gadget.ts';
import { detachAll, type UsbipServer } from './usbip.ts';

/** A gateway with these exports, as long as `work` takes. */
export async function withGateway<T>(
  cabled: CabledGuest,
  exports: readonly string[],
  work: (server: UsbipServer) => Promise<T>,
): Promise<T> {
  const gateway = await cabled.startGateway({ exports, arguments: ['--control', 'none'] });
  try {
    return await work(cabled.serverOf(gateway));
  } finally {
    await gateway.kill();
  }
}

/** A gadget behind usbip-host, as long as `work` takes; it is removed then. */
export async function withKernel<T>(
  guest: Guest,
  gadget: Gadget,
  work: (server: UsbipServer) => Promise<T>,
): Promise<T> {
  const server = await exportByKernel(guest, gadget);
  try {
    return await work(server);
  } finally {
    await detachAll(guest);
    await guest.run(`usbip unbind -b ${gadget.busid}`);
    await gadget.remove();
  }
}
