/** Attaches devices in a guest with `urbgate attach`, in place of the stock tool. */
import { join } from 'node:path';
import type { Guest } from './guest.ts';
import type { GuestProcess } from './guest-process.ts';
import { checkoutFolder } from './paths.ts';
import { type AttachedDevice, attach, type UsbipServer, waitConfigured } from './usbip.ts';

/** What attaches: the stock tool, the relay, or the kernel by our hand. */
export type AttachTool = 'usbip' | 'urbgate' | 'urbgate --direct';

/**
 * Node takes its time under emulation, seconds, unless the machine has other work as well; and the first
 * attach starts the supervisor.
 */
export const START_SECONDS = 240;

/** A command of urbgate as the guest's shell runs it. */
export function urbgateCommand(words: string): string {
  return `${process.execPath} ${join(checkoutFolder(), 'dist', 'src', 'cli', 'main.js')} ${words}`;
}

/** Starts the supervisor, one for many attachments: Node takes seconds to start under emulation. */
export async function supervise(
  guest: Guest,
  command = 'attach --foreground',
  environment = '',
): Promise<GuestProcess> {
  const supervisor = guest.start(`${environment} exec ${urbgateCommand(command)} 2>&1`);
  supervisor.end();
  await supervisor.printed(/Supervising/, START_SECONDS);
  return supervisor;
}

/** Attaches with any of the tools, and waits until the guest has configured the device. */
export async function attachWith(
  guest: Guest,
  tool: AttachTool,
  remoteBusid: string,
  server: UsbipServer,
  options = '',
): Promise<AttachedDevice> {
  if (tool === 'usbip') return await attach(guest, remoteBusid, server);
  const before = performance.now();
  const direct = tool === 'urbgate' ? '' : '--direct';
  const from = `-r ${server.address}:${server.port} -b ${remoteBusid} ${direct} ${options}`;
  const printed = await guest.succeed(urbgateCommand(`attach ${from}`), {
    timeoutSeconds: START_SECONDS,
  });
  const attachSeconds = (performance.now() - before) / 1000;
  const port = Number(/to port (\d+)/.exec(printed)?.[1]);
  if (Number.isNaN(port)) throw new Error(`Cannot attach ${remoteBusid}: ${printed}`);
  const device = await waitConfigured(guest, remoteBusid, port, 20);
  const configuredSeconds = (performance.now() - before) / 1000;
  return { ...device, port, remoteBusid, attachSeconds, configuredSeconds };
}

/** An attachment as `urbgate port --json` shows it. */
export interface ShownAttachment {
  id: string;
  phase: string;
  port: number | null;
  busId: string | null;
  localBusId: string | null;
  stallProtocol: boolean | null;
  why: string | null;
  attachedCount: number;
  urbs: number;
  errors: number;
  fences: number;
  timedFences: number;
}

export async function shownAttachments(guest: Guest): Promise<ShownAttachment[]> {
  const printed = await guest.succeed(urbgateCommand('port --json'), {
    timeoutSeconds: START_SECONDS,
  });
  return JSON.parse(printed).attachments;
}
