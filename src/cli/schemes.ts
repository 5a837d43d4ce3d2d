/**
 * From a parsed SPEC to a device: one entry a scheme, each with what it says about itself in help.
 *
 * A scheme may take its time (hardware, another server), so `open` is asynchronous. What it throws
 * as `UserError` reaches the user as it is.
 */
import type { UsbDevice } from '../core/device.ts';
import type { VirtualKind } from '../core/devices/virtual/kind.ts';
import { VIRTUAL_KINDS } from '../core/devices/virtual/kinds.ts';
import { VirtualDevice } from '../core/devices/virtual/virtual-device.ts';
import { UserError } from '../core/errors.ts';
import { type ExportSpec, readOptions } from '../core/export-spec.ts';
import { openRemote } from '../usbip/remote-device.ts';
import { parseAddress } from './addresses.ts';

export interface OpenContext {
  /** What relative paths in the spec are relative to. */
  readonly folder: string;
  /** Told of exceptions from a device's own code. */
  readonly onFault: (error: unknown) => void;
}

interface Scheme {
  /**
   * @throws {UserError} if the spec does not lead to a device.
   */
  readonly open: (spec: ExportSpec, context: OpenContext) => Promise<UsbDevice>;
  readonly help: () => string;
}

const SCHEMES: ReadonlyMap<string, Scheme> = new Map([
  ['virtual', { open: openVirtual, help: () => VIRTUAL_KINDS.map(describeKind).join('\n') }],
  ['remote', { open: openRemoteSpec, help: () => REMOTE_HELP }],
]);

const REMOTE_HELP =
  '  remote:HOST[:PORT]/BUSID   a device of another USB/IP server, as urbgate list -r HOST shows it';

/**
 * Makes the device that a spec asks for; it is the caller's to dispose of.
 *
 * @throws {UserError} if that is impossible; nothing is left open then.
 */
export async function openDevice(spec: ExportSpec, context: OpenContext): Promise<UsbDevice> {
  const scheme = SCHEMES.get(spec.scheme);
  if (scheme === undefined) {
    const known = [...SCHEMES.keys()].map((name) => `${name}:`).join(', ');
    throw new UserError(
      `Cannot export ${spec.text}: unknown scheme ${spec.scheme}:, wanted one of ${known}`,
    );
  }
  return await scheme.open(spec, context);
}

async function openVirtual(spec: ExportSpec, context: OpenContext): Promise<UsbDevice> {
  const kind = VIRTUAL_KINDS.find(({ name }) => name === spec.target);
  if (kind === undefined) {
    const known = VIRTUAL_KINDS.map(({ name }) => name).join(', ');
    throw new UserError(
      `Cannot export ${spec.text}: unknown kind ${spec.target}, wanted one of ${known}`,
    );
  }
  // The reader made the values by the kind's own table, which is what their type says.
  const options = readOptions(spec, kind.options, context.folder) as Parameters<
    typeof kind.define
  >[0];
  return new VirtualDevice(kind.define(options), { onFault: context.onFault });
}

async function openRemoteSpec(spec: ExportSpec): Promise<UsbDevice> {
  const [, address, busId] = /^(.+)\/([^/]+)$/.exec(spec.target) ?? [];
  if (address === undefined || busId === undefined) {
    throw new UserError(
      `Cannot export ${spec.text}: "${spec.target}", wanted HOST[:PORT]/BUSID such as 10.0.0.2/1-1`,
    );
  }
  readOptions(spec, {}, '');
  return await openRemote(parseAddress(`export ${spec.text} from`, address, 1), busId);
}

/** What `--help` says of SPEC. */
export function specHelp(): string {
  const schemes = [...SCHEMES.values()].map(({ help }) => help()).join('\n');
  return `A SPEC is SCHEME:NAME[,option=value]...; busid=B-P chooses the bus id (default: the next
free one of 1-1, 1-2, ...); a comma inside a value is written \\,

${schemes}`;
}

function describeKind(kind: VirtualKind): string {
  const options = Object.entries(kind.options).map(([key, { type, help }]) => {
    const form = type === 'flag' ? key : `${key}=${type.toUpperCase()}`;
    return `    ${form.padEnd(16)} ${help}`;
  });
  return [`  virtual:${kind.name}   ${kind.summary}`, ...options].join('\n');
}
