/** `urbgate port`: what is attached to this machine, by whatever tool, and what is awaited. */
import { Command } from 'commander';
import { formatAddress } from '../usbip/server.ts';
import { Vhci, type VhciPort } from '../usbip/vhci.ts';
import type { AttachmentStatus } from './attach-protocol.ts';
import { NobodyListens } from './control-client.ts';
import { attachControlOption } from './control-path.ts';
import { say, sayJson } from './output.ts';
import { askSupervisor, supervisorPath } from './supervisor-client.ts';

/** A port of vhci in use. */
export interface PortInUse extends VhciPort {
  /** From the state file of stock `usbip`; null if there is none. */
  readonly source: string | null;
}

export interface PortList {
  readonly attachments: readonly AttachmentStatus[];
  readonly ports: readonly PortInUse[];
}

export function portCommand(): Command {
  return new Command('port')
    .description('show what is attached to this machine, and what is awaited')
    .option('--json', 'for programs')
    .addOption(attachControlOption())
    .addHelpText('after', '\nExamples:\n  urbgate port\n  urbgate port --json | jq .attachments')
    .action(async ({ json, control }: { json?: true; control?: string }) => {
      const list = { attachments: await attachments(control), ports: portsInUse(new Vhci()) };
      if (json) sayJson(list);
      else for (const line of portLines(list)) say(line);
    });
}

/** None if no supervisor runs. */
async function attachments(control: string | undefined): Promise<readonly AttachmentStatus[]> {
  try {
    return (await askSupervisor(supervisorPath(control), { command: 'status' })).attachments;
  } catch (error) {
    if (error instanceof NobodyListens) return [];
    throw error;
  }
}

export function portsInUse(vhci: Vhci): PortInUse[] {
  const used = vhci.ports().filter(({ state }) => state !== 'free');
  return used.map((one) => {
    const record = vhci.recorded(one.port);
    if (record === undefined) return { ...one, source: null };
    const { host, service, busId } = record;
    return { ...one, source: `${formatAddress({ host, port: Number(service) })}/${busId}` };
  });
}

export function portLines({ attachments, ports }: PortList): string[] {
  const lines = ports.flatMap((one) => {
    const ours = attachments.find(({ port }) => port === one.port);
    return [
      `${String(one.port).padStart(3)}  ${one.localBusId ?? one.state}  ${one.source ?? 'unknown'}`,
      ...(ours === undefined ? [] : [`     ${detail(ours)}`]),
    ];
  });
  for (const one of attachments.filter(({ port }) => port === null)) {
    const { id, server, busId, device, phase, why } = one;
    const place = busId ?? device;
    const what = place === null ? server : `${server}/${place}`;
    lines.push(`${id.padStart(3)}  ${phase}  ${what}${why ? `: ${why}` : ''}`);
  }
  return lines.length === 0 ? ['Nothing is attached'] : lines;
}

function detail(one: AttachmentStatus): string {
  const { id, direct, stallProtocol, attachedSince, urbs, errors, persist } = one;
  const how = direct ? 'direct' : stallProtocol ? 'stall protocol' : 'held back for an old server';
  const words = [id, how, `since ${attachedSince}`];
  if (!direct) words.push(`${urbs} URBs, ${errors} failed`);
  if (persist) words.push('persistent');
  return words.join(', ');
}
