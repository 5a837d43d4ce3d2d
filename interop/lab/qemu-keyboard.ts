/** A keyboard of QEMU, exported by a gateway in the guest and attached there again. */
import type { GuestGateway } from './gateway.ts';
import type { Guest } from './guest.ts';
import { compiled, labSource } from './kernel.ts';
import { attachFrom } from './own-devices.ts';
import type { QemuMonitor } from './qemu-monitor.ts';
import { detachAll } from './usbip.ts';

const KEYS = ['u', 'r', 'b', 'esc'];
/** KEY_U, KEY_R, KEY_B, KEY_ESC of linux/input-event-codes.h. */
export const TYPED: readonly number[] = [22, 19, 48, 1];

/** Attaches the keyboard, presses the keys, and detaches it. @returns codes of the keys that came */
export async function typedThrough(
  guest: Guest,
  monitor: QemuMonitor,
  gateway: GuestGateway,
): Promise<number[]> {
  const reader = await compiled(labSource('input-events.c'));
  const events = guest.start(`exec ${reader} 'QEMU QEMU USB Keyboard'`);
  events.end();
  await attachFrom(guest, gateway);
  await events.printed(/ready .*\n/, 60);
  for (const key of KEYS) {
    await monitor.say(`sendkey ${key}`);
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  await events.printed(/^1 1 0\n/m, 30);
  const pressed = [...events.stdout.matchAll(/^1 (\d+) 1$/gm)].map(([, code]) => Number(code));
  await detachAll(guest);
  await events.result(30);
  return pressed;
}
