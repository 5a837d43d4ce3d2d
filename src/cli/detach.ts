/** `urbgate detach`: unplugs what is attached, by whatever tool. */
import { Command } from 'commander';
import { UserError } from '../core/errors.ts';
import { Vhci } from '../usbip/vhci.ts';
import { NobodyListens } from './control-client.ts';
import { attachControlOption } from './control-path.ts';
import { say } from './output.ts';
import { portsInUse } from './port.ts';
import { askSupervisor, supervisorPath } from './supervisor-client.ts';

export function detachCommand(): Command {
  return new Command('detach')
    .description('unplug what is attached to this machine')
    .argument(
      '<port>',
      'a port or an id (a1, for what is awaited), as urbgate port shows it; or all',
    )
    .addOption(attachControlOption())
    .addHelpText('after', '\nExamples:\n  urbgate detach 0\n  urbgate detach all')
    .action(detach);
}

async function detach(text: string, { control }: { control?: string }): Promise<void> {
  const target = /^\d+$/.test(text) ? String(Number(text)) : text; // usbip writes 00
  if (!/^(\d+|a\d+|all)$/.test(target)) {
    throw new UserError(`Cannot detach ${text}: wanted a port such as 0, an id such as a1, or all`);
  }
  const vhci = new Vhci();
  const ours = await detachOurs(target, control);
  for (const name of ours) say(`Detached ${name}`);
  if (target === 'all') {
    for (const { port } of portsInUse(vhci)) if (vhci.detach(port)) say(`Detached port ${port}`);
  } else if (ours.length === 0) {
    if (!/^\d+$/.test(target)) throw nothing(target);
    if (!vhci.detach(Number(target))) throw nothing(target);
    say(`Detached port ${target}`);
  }
}

const nothing = (target: string) =>
  new UserError(`Cannot detach ${target}: nothing is attached there, see urbgate port`);

/** What the supervisor had, if there is one and it had any. */
async function detachOurs(target: string, control: string | undefined): Promise<string[]> {
  const where = supervisorPath(control);
  try {
    const { attachments } = await askSupervisor(where, { command: 'status' });
    const known = attachments.some(({ id, port }) => id === target || String(port) === target);
    if (!known && target !== 'all') return [];
    return await askSupervisor(where, { command: 'detach', target });
  } catch (error) {
    if (error instanceof NobodyListens) return [];
    throw error;
  }
}
