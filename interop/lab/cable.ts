/**
 * A network cable between a guest and gateways on the host: a tap device in a network namespace of
 * its own, so that the two kernels' TCP talk to each other, and to nobody else.
 *
 * QEMU's user-mode network will not do where timing counts. It is a TCP of its own that acknowledges
 * in the guest's name, so that the gateway takes the guest to know what has not reached it; and when
 * a segment is lost on its way, it is sent again after one second, which no timed hold outlasts.
 */

import { type Gateway, type GatewayOptions, startGateway } from './gateway.ts';
import { bootGuest, type Guest, type GuestOptions } from './guest.ts';
import { hostCommand } from './host-command.ts';
import type { UsbipServer } from './usbip.ts';

const HOST_ADDRESS = '10.97.54.1';
const GUEST_ADDRESS = '10.97.54.2';
const DEVICE = 'cable';
/** Of the network card at the guest's end. */
const MAC = '52:54:00:75:72:62';

/** A guest with a cable. Its namespace goes with it. */
export class CabledGuest {
  readonly guest: Guest;
  /** Of the other end of the cable. */
  readonly hostAddress = HOST_ADDRESS;
  readonly #namespace: string;

  /** Use {@link bootCabledGuest}. */
  constructor(guest: Guest, namespace: string) {
    this.guest = guest;
    this.#namespace = namespace;
  }

  /** Starts a gateway that listens at the host's end of the cable. */
  startGateway(options: GatewayOptions & { listenPort?: number }): Promise<Gateway> {
    const command = ['ip', 'netns', 'exec', this.#namespace];
    const listen = `${HOST_ADDRESS}:${options.listenPort ?? 0}`;
    return startGateway({ ...options, within: command, listen });
  }

  /** How the guest reaches such a gateway. */
  serverOf(gateway: Gateway): UsbipServer {
    return { address: HOST_ADDRESS, port: gateway.port };
  }

  async kill(): Promise<void> {
    await this.guest.kill();
    await hostCommand('ip', ['netns', 'delete', this.#namespace]);
  }
}

let count = 0;

/** Boots a guest with a cable. @throws Error unless this is root, to whom namespaces belong */
export async function bootCabledGuest(options: GuestOptions = {}): Promise<CabledGuest> {
  const namespace = `urbgate-${process.pid}-${++count}`;
  await hostCommand('ip', ['netns', 'add', namespace]);
  try {
    await hostCommand('ip', ['-n', namespace, 'link', 'set', 'lo', 'up']);
    await hostCommand('ip', ['-n', namespace, 'tuntap', 'add', 'dev', DEVICE, 'mode', 'tap']);
    const address = ['address', 'add', `${HOST_ADDRESS}/24`, 'dev', DEVICE];
    await hostCommand('ip', ['-n', namespace, ...address]);
    await hostCommand('ip', ['-n', namespace, 'link', 'set', DEVICE, 'up']);
    const guest = await bootGuest({
      ...options,
      within: ['ip', 'netns', 'exec', namespace],
      qemuArguments: [
        ...(options.qemuArguments ?? []),
        ...['-netdev', `tap,id=${DEVICE},ifname=${DEVICE},script=no,downscript=no`],
        ...['-device', `virtio-net-pci,netdev=${DEVICE},mac=${MAC},romfile=`],
      ],
    });
    await guest.succeed(`cd /sys/class/net
card=$(grep -lx ${MAC} */address)
ip address add ${GUEST_ADDRESS}/24 dev \${card%/address}
ip link set \${card%/address} up`);
    return new CabledGuest(guest, namespace);
  } catch (error) {
    await hostCommand('ip', ['netns', 'delete', namespace]).catch(() => {});
    throw error;
  }
}
