/**
 * `urbgate attach`: devices of other machines become devices of this one (Linux, through vhci).
 *
 * One supervisor process has all attachments of the machine. The first attach starts it in the
 * background, or is it itself with --foreground.
 */
import { Command, InvalidArgumentError, Option } from 'commander';
import { UserError } from '../core/errors.ts';
import { USBIP_PORT } from '../usbip/protocol.ts';
import { Vhci } from '../usbip/vhci.ts';
import { PORTS_MAX } from '../xenring/usbif.ts';
import { parseAddress } from './addresses.ts';
import { attachFile, readSaved, save } from './attach-file.ts';
import {
  type AttachmentStatus,
  type AttachRequest,
  isRing,
  type RemoteRequest,
  type RingRequest,
  readIdentity,
  targetText,
} from './attach-protocol.ts';
import { attachControlOption, type ControlPath } from './control-path.ts';
import { serveRequests } from './control-server.ts';
import { leave } from './leave.ts';
import { createLog } from './log.ts';
import { say } from './output.ts';
import { endOnBug, stopOnSignal } from './stop.ts';
import { Supervisor } from './supervisor.ts';
import { attachBySupervisor, supervisorPath } from './supervisor-client.ts';

interface AttachOptions {
  readonly remote?: string;
  readonly busid?: string;
  readonly device?: string;
  readonly xen?: true;
  readonly controller?: number;
  readonly port?: readonly number[];
  readonly wait?: true;
  readonly persist?: true;
  readonly direct?: true;
  readonly save?: true;
  readonly saved?: true;
  readonly foreground?: true;
  readonly background?: true;
  readonly verbose?: true;
  readonly control?: string;
}

/** A supervisor in the background with nothing to do ends after so long. */
const IDLE_MILLISECONDS = 10_000;

export function attachCommand(): Command {
  return what(new Command('attach'))
    .description(
      'make a device of another machine, or of the domain that serves this Xen guest, a device of this one (Linux)',
    )
    .option('--save', 'and again at each boot: adds it to the file that --saved reads')
    .option('--saved', 'attach all that is in $URBGATE_ATTACHMENTS or /etc/urbgate/attachments')
    .option('--foreground', 'be the supervisor of all attachments, until SIGINT or SIGTERM')
    .addOption(new Option('--background').hideHelp())
    .option('--verbose', 'with --foreground: log what debugging needs')
    .addOption(attachControlOption())
    .addHelpText('after', EXAMPLES)
    .action(attach);
}

/** The options that say what is attached and how: those of a line in the file, too. */
function what(command: Command): Command {
  return command
    .option(
      '-r, --remote <address>',
      `HOST[:PORT] or [IPV6][:PORT], port ${USBIP_PORT} if not given`,
    )
    .option('-b, --busid <busid>', 'bus id of the device at the server, see urbgate list')
    .option('-d, --device <identity>', 'VVVV:PPPP[:SERIAL] of the device, in place of its bus id')
    .option('--xen', 'what is plugged into a controller of this Xen guest, now and later')
    .option('--controller <n>', 'with --xen: its number (default: 0)', number(0, CONTROLLER_MAX))
    .option('--port <n...>', 'with --xen: only what is in these ports', each(number(1, PORTS_MAX)))
    .option('--wait', 'if the device (the controller) is not there, wait until it is')
    .option('--persist', 'attach it again when it was lost, and came back')
    .option('--direct', 'hand the connection to the kernel, as usbip attach does');
}

const EXAMPLES = `
Examples:
  urbgate attach -r 192.168.1.2 -b 1-1
  urbgate attach -r 192.168.1.2:3241 -d 0525:a4a0 --wait --persist
  urbgate attach --saved --foreground      as a service
  urbgate attach --xen --persist           all that "urbgate xen attach" plugs into this guest`;

/** Controllers are numbered from 0. */
const CONTROLLER_MAX = 0xffff;

function number(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Wanted a number from ${min} to ${max}.`);
  };
}

/** For an option that is given several times. */
function each(parse: (text: string) => number) {
  return (text: string, before: readonly number[] = []) => [...before, parse(text)];
}

async function attach(options: AttachOptions): Promise<void> {
  const where = supervisorPath(options.control);
  const requests = options.saved ? savedRequests() : [];
  if (options.remote !== undefined || options.xen) requests.push(requestOf(options));
  const isSupervisor = options.foreground || options.background;
  if (requests.length === 0 && !isSupervisor && !options.saved) {
    throw new UserError('Cannot attach: no server given, wanted -r HOST and -b BUSID, or --xen');
  }
  if (options.save) for (const one of requests) save(attachFile(process.env), one);
  if (isSupervisor) {
    await supervise(where, requests, options);
    return;
  }
  if (requests.length > 0) new Vhci().ports(); // no supervisor is started if there is no vhci
  for (const one of requests) tell(one, await attachBySupervisor(where, one));
}

function tell(request: AttachRequest, { phase, port, id, why }: AttachmentStatus): void {
  const target = targetText(request);
  if (isRing(request) && phase === 'attached') {
    say(`Attached ${target} (${id}): what is plugged in now and later, see urbgate port`);
  } else if (port === null) say(`Waiting for ${target} (${id}): ${why}`);
  else say(`Attached ${target} to port ${port}`);
}

async function supervise(
  where: ControlPath,
  requests: readonly AttachRequest[],
  options: AttachOptions,
): Promise<void> {
  const log = createLog(options.verbose ?? false);
  const supervisor = new Supervisor(new Vhci(), log);
  const control = await serveRequests(where, (request) => supervisor.answer(request), log);
  const close = async () => {
    control.close();
    await supervisor.close();
  };
  const stopping = stopOnSignal({ close, unfinished: () => supervisor.unfinished }, log);
  endOnBug(close, log);
  if (options.background) endWhenIdle(supervisor, close);
  else say('Supervising attachments');
  const begin = async (one: AttachRequest) => {
    try {
      tell(one, await supervisor.attach(one));
    } catch (error) {
      if (!options.saved) await close();
      if (stopping.hasBegun) return;
      if (!options.saved || !(error instanceof UserError)) throw error;
      log.warn(error.message);
    }
  };
  // All at once: one server that does not answer is no reason for the others to wait.
  await Promise.all(requests.map(begin));
}

function endWhenIdle(supervisor: Supervisor, close: () => Promise<void>): void {
  const look = async () => {
    if (supervisor.attachmentCount > 0) return;
    await close();
    leave(0);
  };
  supervisor.onIdle = () => {
    setTimeout(look, IDLE_MILLISECONDS);
  };
  supervisor.onIdle();
}

/**
 * @throws {UserError} if the options do not say what is meant.
 */
export function requestOf(options: AttachOptions): AttachRequest {
  return options.xen ? ringRequest(options) : remoteRequest(options);
}

function ringRequest(options: AttachOptions): RingRequest {
  const { remote, busid, device, direct, controller = 0, port = [] } = options;
  if (remote !== undefined || busid !== undefined || device !== undefined) {
    throw new UserError(
      'Cannot attach: --xen with -r, -b or -d, wanted --xen alone or a server and a device',
    );
  }
  if (direct) throw new UserError('Cannot attach: --direct is for servers, and --xen has none');
  const { wait = false, persist = false } = options;
  return { command: 'attach', controller, ports: port, wait, persist };
}

function remoteRequest(options: AttachOptions): RemoteRequest {
  if (options.controller !== undefined || options.port !== undefined) {
    throw new UserError('Cannot attach: --controller and --port are for --xen');
  }
  const { remote, busid, device } = options;
  if (remote === undefined) throw new UserError('Cannot attach: no server given, wanted -r HOST');
  if ((busid === undefined) === (device === undefined)) {
    throw new UserError(`Cannot attach from ${remote}: wanted one of -b BUSID and -d VVVV:PPPP`);
  }
  if (device !== undefined) readIdentity(device);
  return {
    command: 'attach',
    server: parseAddress('attach from', remote, 1),
    ...(busid === undefined ? {} : { busId: busid }),
    ...(device === undefined ? {} : { device }),
    wait: options.wait ?? false,
    persist: options.persist ?? false,
    direct: options.direct ?? false,
  };
}

/** What is saved is waited for and kept. */
function savedRequests(): AttachRequest[] {
  const path = attachFile(process.env);
  return readSaved(path).map((words) => {
    const command = what(new Command('attach')).exitOverride();
    command.configureOutput({ outputError: () => {} });
    try {
      command.parse(words, { from: 'user' });
    } catch (error) {
      throw new UserError(`Cannot attach what ${path} has: "${words.join(' ')}": ${error}`);
    }
    return { ...requestOf(command.opts()), wait: true, persist: true };
  });
}
