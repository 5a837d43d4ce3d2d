/** What WebUSB shows of a device, read once from its descriptors; settings and claims change. */
import type { Clock } from '../core/clock.ts';
import type { EndpointInfo } from '../core/device.ts';
import type { RemoteDevice } from './client.ts';
import { type RemoteDescriptors, readDescriptors, readString } from './remote-descriptors.ts';
import type { ListenAddress } from './server.ts';
import { assertClaimed, fault } from './webusb-transfers.ts';
import type {
  UsbAlternateInterface,
  UsbConfiguration,
  UsbControlTransferParameters,
  UsbDirection,
  UsbEndpoint,
  UsbInterface,
} from './webusb-types.ts';

/** String descriptors that are asked for; settings beyond have no names. */
const STRINGS_MAX = 64;

/** Everything about a device that does not need it to be open. */
export interface DeviceFacts {
  readonly descriptors: RemoteDescriptors;
  readonly manufacturerName: string | undefined;
  readonly productName: string | undefined;
  readonly serialNumber: string | undefined;
  readonly configurations: readonly ConfigurationState[];
}

/** What a device is made of. */
export interface DeviceParts {
  readonly server: ListenAddress;
  readonly busId: string;
  readonly facts: DeviceFacts;
  readonly clock: Clock;
  /** The connection was lost. */
  readonly onGone: () => void;
}

/** An interface whose setting and claim are the device's to change. */
export class InterfaceState implements UsbInterface {
  readonly interfaceNumber: number;
  readonly alternates: readonly UsbAlternateInterface[];
  alternate: UsbAlternateInterface;
  claimed = false;

  constructor(number: number, first: UsbAlternateInterface, more: UsbAlternateInterface[]) {
    this.interfaceNumber = number;
    this.alternates = [first, ...more];
    this.alternate = first;
  }

  /** As after SET_CONFIGURATION. */
  reset(): void {
    const [first] = this.alternates;
    if (first !== undefined) this.alternate = first;
    this.claimed = false;
  }
}

export interface ConfigurationState extends UsbConfiguration {
  readonly interfaces: readonly InterfaceState[];
}

/**
 * @throws {UserError} if the device does not answer.
 */
export async function readFacts(remote: RemoteDevice): Promise<DeviceFacts> {
  const descriptors = await readDescriptors(remote);
  const { manufacturer, product, serialNumber } = descriptors.device;
  const configurations: ConfigurationState[] = [];
  // Each is asked for once: a device may name the same string in thousands of settings.
  const strings = new Map<number, Promise<string | undefined>>();
  const nameOf = (index: number) => {
    const known = strings.get(index);
    if (known !== undefined || index === 0 || strings.size >= STRINGS_MAX) return known;
    const name = readString(remote, index);
    strings.set(index, name);
    return name;
  };
  const manufacturerName = await nameOf(manufacturer);
  const productName = await nameOf(product);
  const serial = await nameOf(serialNumber);
  for (const { value, nameIndex, alternates } of descriptors.parsed) {
    const byNumber = new Map<number, UsbAlternateInterface[]>();
    for (const setting of alternates) {
      const settings = byNumber.get(setting.number) ?? [];
      byNumber.set(setting.number, settings);
      settings.push({
        alternateSetting: setting.alternate,
        interfaceClass: setting.class,
        interfaceSubclass: setting.subclass,
        interfaceProtocol: setting.protocol,
        interfaceName: await nameOf(setting.nameIndex),
        endpoints: setting.endpoints.map(endpointOf).filter((one) => one !== null),
      });
    }
    const interfaces = [...byNumber].flatMap(([number, [first, ...more]]) =>
      first === undefined ? [] : [new InterfaceState(number, first, more)],
    );
    const configurationName = await nameOf(nameIndex);
    configurations.push({ configurationValue: value, configurationName, interfaces });
  }
  return {
    descriptors,
    manufacturerName,
    productName,
    serialNumber: serial,
    configurations,
  };
}

function endpointOf({
  address,
  direction,
  type,
  maxPacketOctets,
}: EndpointInfo): UsbEndpoint | null {
  if (type === 'control') return null;
  return { endpointNumber: address & 15, direction, type, packetSize: maxPacketOctets };
}

/** An endpoint with the interface that it belongs to. */
export interface Found {
  readonly endpoint: UsbEndpoint;
  readonly of: InterfaceState;
}

type MaybeConfiguration = ConfigurationState | undefined;

/** @throws {DOMException} NotFoundError if the configuration has none of that number. */
export function findInterface(from: MaybeConfiguration, number: number): InterfaceState {
  const found = from?.interfaces.find((one) => one.interfaceNumber === number);
  if (found === undefined) throw fault('NotFoundError', `no interface ${number}`);
  return found;
}

/** @throws {DOMException} NotFoundError if no interface has such an endpoint now. */
export function findEndpoint(
  from: MaybeConfiguration,
  direction: UsbDirection,
  number: number,
): Found {
  for (const of of from?.interfaces ?? []) {
    const endpoint = of.alternate.endpoints.find(
      (one) => one.endpointNumber === number && one.direction === direction,
    );
    if (endpoint !== undefined) return { endpoint, of };
  }
  throw fault('NotFoundError', `no ${direction} endpoint ${number}`);
}

/** "Check the validity of the control transfer parameters". */
export function assertControl(
  from: MaybeConfiguration,
  { recipient, index }: UsbControlTransferParameters,
): void {
  if (from === undefined) return;
  if (recipient === 'interface') assertClaimed(findInterface(from, index & 0xff));
  if (recipient === 'endpoint') {
    assertClaimed(findEndpoint(from, (index & 0x80) !== 0 ? 'in' : 'out', index & 15).of);
  }
}
