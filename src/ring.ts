/**
 * What programs import from `urbgate/ring`: devices of a gateway on this host, `urbgate serve --shm`,
 * or of a domain of the same Xen, through rings in shared memory. It calls the C library, so it is
 * for Linux only, and apart from `urbgate`.
 *
 * ```ts
 * import { connectRing } from 'urbgate/ring';
 *
 * const gateway = await connectRing({ folder: '/run/urbgate/ring' });
 * const device = await gateway.importDevice('1-1');
 * const { status, data } = await device.transfer({ endpoint: 0x81, type: 'bulk', octets: 512 });
 * ```
 */

export type { Handler, Transfer, TransferResult } from './core/transfer.ts';
export { Frontend } from './xenring/frontend.ts';
export type { Pending } from './xenring/pending.ts';
export { openShmPlatform, type ShmOptions, ShmPlatform } from './xenring/platform/shm.ts';
export { openXenPlatform } from './xenring/platform/xen.ts';
export type { Platform } from './xenring/platform.ts';
export { connectRing, type RingAddress, RingClient } from './xenring/ring-client.ts';
export { RingDevice } from './xenring/ring-device.ts';
