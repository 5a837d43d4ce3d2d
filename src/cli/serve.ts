/**
 * `urbgate serve`: exports devices until a signal says stop.
 *
 * In order: read every argument, take the control socket, open the devices, listen, say so. A
 * mistake in one of them undoes those before it. `Listening on` therefore means that every device
 * of the command line can be attached.
 */
import { Command } from 'commander';
import { UserError } from '../core/errors.ts';
import { type ExportSpec, parseExportSpec } from '../core/export-spec.ts';
import { formatAddress, type ListenAddress } from '../usbip/server.ts';
import { isLoopback, parseAddress } from './addresses.ts';
import { controlOption, controlPath } from './control-path.ts';
import { type ControlServer, serveControl } from './control-server.ts';
import { DEMO_SPECS, demoLines } from './demo.ts';
import { type ExportStatus, Gateway } from './gateway.ts';
import { createLog, type Log } from './log.ts';
import { collect } from './options.ts';
import { exportLines, say } from './output.ts';
import { specHelp } from './schemes.ts';
import { endOnBug, stopOnSignal } from './stop.ts';

/** USB/IP has no authentication, so nobody else's machine is let in unasked. */
const LISTEN_DEFAULT = '127.0.0.1';

interface ServeOptions {
  readonly listen?: readonly string[];
  readonly export?: readonly string[];
  readonly verbose?: true;
  readonly xen?: true;
  readonly shm?: string;
  readonly stallHold?: number;
  readonly control?: string;
  readonly demo?: true;
}

export function serveCommand(): Command {
  return new Command('serve')
    .description(
      'export USB devices to USB/IP clients until SIGINT or SIGTERM (a second one ends it at once)',
    )
    .option(
      '--listen <address>',
      `HOST[:PORT] or [IPV6][:PORT], port 0 for a free one; repeatable (default: ${LISTEN_DEFAULT}:3240)`,
      collect,
    )
    .option('--export <spec>', 'a device to export, see below; repeatable', collect)
    .option(
      '--stall-hold <milliseconds>',
      'after an error, how long an endpoint waits at most for the client to unlink what it has ' +
        'queued behind; 0 for not at all (default: 1000)',
      parseStallHold,
    )
    .option('--xen', 'also serve Xen guests, see urbgate xen --help')
    .option('--shm <folder>', 'also serve processes of this host over rings in shared memory')
    .option('--verbose', 'log what debugging needs')
    .addOption(controlOption(true))
    .option('--demo', 'export one device of each kind and say how to attach them')
    .addHelpText('after', () => `\n${EXAMPLES}\n${specHelp()}`)
    .action(serve);
}

const EXAMPLES = `Examples:
  urbgate serve --export virtual:disk,size=64MiB
  urbgate serve --listen 0.0.0.0 --listen [::1]:3241 --export virtual:disk,file=a.img,readonly
  urbgate serve --export usb:0951:1666,wait
  urbgate serve --demo
  urbgate serve --xen --export virtual:disk,size=64MiB
`;

async function serve(options: ServeOptions): Promise<void> {
  const addresses = (options.listen ?? [LISTEN_DEFAULT]).map((text) =>
    parseAddress('listen on', text, 0),
  );
  const specs = [...(options.export ?? []), ...(options.demo ? DEMO_SPECS : [])].map(
    parseExportSpec,
  );
  const control = controlPath(options.control);
  const log = createLog(options.verbose ?? false);
  const gateway = new Gateway(log, options.stallHold);
  let controlServer: ControlServer | undefined;
  const close = async () => {
    controlServer?.close();
    await gateway.close();
  };
  const stopping = stopOnSignal({ close, unfinished: () => gateway.unfinished }, log);
  endOnBug(close, log);
  try {
    if (control !== null) controlServer = await serveControl(control, gateway, log);
    const exported = await exportAll(gateway, specs);
    if (options.xen) await serveXen(gateway);
    if (options.shm !== undefined) await serveShm(gateway, options.shm, log);
    const bound = await listenAll(gateway, addresses, log);
    for (const { text, devices } of exported) {
      for (const line of exportLines(text, devices)) say(line);
    }
    const all = exported.flatMap(({ devices }) => devices);
    if (options.demo) for (const line of demoLines(all, bound)) say(line);
  } catch (error) {
    await close();
    if (!stopping.hasBegun) throw error;
  }
}

/** Loads what only Xen needs only then: it calls the C library. */
async function serveXen(gateway: Gateway): Promise<void> {
  const { openXenPlatform } = await import('../xenring/platform/xen.ts');
  await gateway.serveRings('Xen guests', await openXenPlatform());
}

async function serveShm(gateway: Gateway, folder: string, log: Log): Promise<void> {
  const { openShmPlatform } = await import('../xenring/platform/shm.ts');
  const onBug = (err: unknown) =>
    log.error({ err }, `A client of the store in ${folder} is let go`);
  await gateway.serveRings(folder, await openShmPlatform({ folder, domain: 0, onBug }));
}

/** A minute is far beyond any driver's patience. */
const STALL_HOLD_MILLISECONDS_MAX = 60_000;

function parseStallHold(text: string): number {
  const milliseconds = Number(text);
  if (/^\d+$/.test(text) && milliseconds <= STALL_HOLD_MILLISECONDS_MAX) return milliseconds;
  throw new UserError(
    `Cannot hold stalled endpoints for "${text}" milliseconds: wanted 0 to ${STALL_HOLD_MILLISECONDS_MAX}`,
  );
}

interface Exported {
  readonly text: string;
  readonly devices: readonly ExportStatus[];
}

async function exportAll(gateway: Gateway, specs: readonly ExportSpec[]): Promise<Exported[]> {
  const busIds = busIdsFor(specs);
  const exported: Exported[] = [];
  for (const [index, { text }] of specs.entries()) {
    exported.push({ text, devices: await gateway.export(text, process.cwd(), busIds[index]) });
  }
  return exported;
}

/** Bus ids in order, passing over those that another spec asks for by name. */
export function busIdsFor(specs: readonly Pick<ExportSpec, 'busId'>[]): string[] {
  const named = new Set(specs.map(({ busId }) => busId));
  let port = 0;
  return specs.map(({ busId }) => {
    if (busId !== undefined) return busId;
    do port++;
    while (named.has(`1-${port}`));
    return `1-${port}`;
  });
}

/** Returns the first of the addresses as it was bound. */
async function listenAll(
  gateway: Gateway,
  addresses: readonly ListenAddress[],
  log: Log,
): Promise<ListenAddress> {
  const bound: ListenAddress[] = [];
  for (const address of addresses) bound.push(await gateway.listen(address));
  for (const each of bound) {
    say(`Listening on ${formatAddress(each)}`);
    if (isLoopback(each.host)) continue;
    log.warn(
      `${formatAddress(each)} is open to the network and USB/IP has no authentication: ` +
        'anyone who reaches it can use the devices',
    );
  }
  return bound[0] as ListenAddress;
}
