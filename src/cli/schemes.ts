/**
 * From a parsed SPEC to a device: one entry a scheme, each with what it says about itself in help.
 *
 * A scheme may take its time (hardware, another server), so `open` is asynchronous. What it throws
 * as `UserError` reaches the user as it is.
 */
import { systemClock } from '../core/clock.ts';
import type { UsbDevice } from '../core/device.ts';
import { parseSelector } from '../core/devices/host/selector.ts';
import { HostDeviceSource } from '../core/devices/host/source.ts';
import { isUsbfsSupported } from '../core/devices/usbfs/kernel.ts';
import { usbfsBackend } from '../core/devices/usbfs/open.ts';
import type { OptionSpec, VirtualKind } from '../core/devices/virtual/kind.ts';
import { VIRTUAL_KINDS } from '../core/devices/virtual/kinds.ts';
import { VirtualDevice } from '../core/devices/virtual/virtual-device.ts';
import { webUsbBackend } from '../core/devices/webusb/open.ts';
import { UserError } from '../core/errors.ts';
import { type ExportSpec, readOptions } from '../core/export-spec.ts';
import { busIdOf } from '../usbip/find-device.ts';
import { openRemote } from '../usbip/remote-device.ts';
import { RemoteSource } from '../usbip/remote-source.ts';
import { parseAddress } from './addresses.ts';

export interface OpenContext {
  /** What relative paths in the spec are relative to. */
  readonly folder: string;
  /** Told of exceptions from a device's own code. */
  readonly onFault: (error: unknown) => void;
  /** A device has come after `open`; it is the callee's to dispose of. */
  readonly onAdded: (one: Opened) => Promise<void>;
  /** A device has gone. */
  readonly onGone: (device: UsbDevice) => void;
  /** A device that was not asked for by name is left out. */
  readonly onRefused: (reason: string) => void;
  /** The one device of the spec is not there. */
  readonly onAwaited: (why: string) => void;
}

export interface Opened {
  readonly device: UsbDevice;
  /** The bus id that it should have. */
  readonly busId?: string;
}

/** What a spec led to: some devices now, perhaps more later. */
export interface Source {
  readonly devices: readonly Opened[];
  /** Whatever comes is one and the same device, again: it keeps its bus id. */
  readonly keepsBusId?: boolean;
  /** Nothing more is to come. What was opened stays. */
  readonly stop: () => void;
}

interface Scheme {
  /**
   * @throws {UserError} if the spec does not lead to a device.
   */
  readonly open: (spec: ExportSpec, context: OpenContext) => Promise<Source>;
  readonly help: () => string;
}

const SCHEMES: ReadonlyMap<string, Scheme> = new Map([
  ['virtual', { open: openVirtual, help: () => VIRTUAL_KINDS.map(describeKind).join('\n') }],
  ['usb', { open: openUsb, help: describeUsb }],
  ['remote', { open: openRemoteSpec, help: describeRemote }],
]);

/**
 * Makes the devices that a spec asks for; they are the caller's to dispose of.
 *
 * @throws {UserError} if that is impossible; nothing is left open then.
 */
export async function openSource(spec: ExportSpec, context: OpenContext): Promise<Source> {
  const scheme = SCHEMES.get(spec.scheme);
  if (scheme === undefined) {
    const known = [...SCHEMES.keys()].map((name) => `${name}:`).join(', ');
    throw new UserError(
      `Cannot export ${spec.text}: unknown scheme ${spec.scheme}:, wanted one of ${known}`,
    );
  }
  return await scheme.open(spec, context);
}

async function openVirtual(spec: ExportSpec, context: OpenContext): Promise<Source> {
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
  const device = new VirtualDevice(kind.define(options), { onFault: context.onFault });
  return { devices: [{ device }], stop: () => {} };
}

const USB_OPTIONS: Readonly<Record<string, OptionSpec>> = {
  wait: { type: 'flag', help: 'export devices when they are plugged in, and again after that' },
  force: { type: 'flag', help: 'also if this machine uses the device: its disk is mounted, ...' },
  backend: {
    type: 'text',
    help: 'usbfs (Linux; default), or webusb: the usb package (default elsewhere)',
  },
};

const USB_BACKENDS = ['usbfs', 'webusb'];

async function openUsb(spec: ExportSpec, context: OpenContext): Promise<Source> {
  const options = readOptions(spec, USB_OPTIONS, context.folder);
  const backend = options.backend ?? (isUsbfsSupported() ? 'usbfs' : 'webusb');
  if (typeof backend !== 'string' || !USB_BACKENDS.includes(backend)) {
    throw new UserError(
      `Cannot export ${spec.text}: backend=${backend}, wanted one of ${USB_BACKENDS.join(', ')}`,
    );
  }
  const common = {
    selector: parseSelector(spec.target),
    spec: spec.text,
    wait: options.wait === true,
    force: options.force === true,
    clock: systemClock,
    onAdded: (device: UsbDevice, busId: string) => context.onAdded({ device, busId }),
    onGone: context.onGone,
    onRefused: context.onRefused,
    onBug: context.onFault,
  };
  const source =
    backend === 'usbfs'
      ? new HostDeviceSource(usbfsBackend, common)
      : new HostDeviceSource(await webUsbBackend(), common);
  return { devices: await source.start(), stop: () => source.stop() };
}

function describeUsb(): string {
  return [
    '  usb:BUSID, usb:VVVV:PPPP, usb:VVVV:PPPP:SERIAL   devices of this machine; * for anything',
    ...optionLines(USB_OPTIONS),
  ].join('\n');
}

const REMOTE_OPTIONS: Readonly<Record<string, OptionSpec>> = {
  wait: {
    type: 'flag',
    help: 'export it when it is there, and again when it was gone and came back',
  },
};

async function openRemoteSpec(spec: ExportSpec, context: OpenContext): Promise<Source> {
  const [, server, which] = /^(.+)\/([^/]+)$/.exec(spec.target) ?? [];
  if (server === undefined || which === undefined) {
    throw new UserError(
      `Cannot export ${spec.text}: "${spec.target}", wanted HOST[:PORT]/BUSID such as 10.0.0.2/1-1`,
    );
  }
  const wait = readOptions(spec, REMOTE_OPTIONS, context.folder).wait === true;
  const address = parseAddress(`export ${spec.text} from`, server, 1);
  const source = new RemoteSource({
    open: async () =>
      await openRemote(address, await busIdOf(address, which), { onBug: context.onFault }),
    wait,
    clock: systemClock,
    onAdded: (device) => context.onAdded({ device }),
    onGone: context.onGone,
    onAwaited: context.onAwaited,
  });
  const devices = (await source.start()).map((device) => ({ device }));
  return { devices, keepsBusId: wait, stop: () => source.stop() };
}

function describeRemote(): string {
  return [
    '  remote:HOST[:PORT]/BUSID   a device of another USB/IP server, as urbgate list -r HOST shows it;',
    '      VVVV:PPPP[:SERIAL] in place of BUSID: wherever it is plugged in there',
    ...optionLines(REMOTE_OPTIONS),
  ].join('\n');
}

/** What `--help` says of SPEC. */
export function specHelp(): string {
  const schemes = [...SCHEMES.values()].map(({ help }) => help()).join('\n');
  return `A SPEC is SCHEME:NAME[,option=value]...; busid=B-P chooses the bus id (default: the next
free one of 1-1, 1-2, ...); a comma inside a value is written \\,

${schemes}`;
}

function describeKind(kind: VirtualKind): string {
  return [`  virtual:${kind.name}   ${kind.summary}`, ...optionLines(kind.options)].join('\n');
}

function optionLines(table: Readonly<Record<string, OptionSpec>>): string[] {
  return Object.entries(table).map(([key, { type, help }]) => {
    const form = type === 'flag' ? key : `${key}=${type.toUpperCase()}`;
    return `    ${form.padEnd(16)} ${help}`;
  });
}
