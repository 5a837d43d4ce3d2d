/**
 * The relay of `urbgate attach` with usbip-load in the place of the kernel's vhci:
 *
 *     node relay.js --tcp PORT --busid BUSID
 *
 * It says `ready`. Then each line of standard input is a command (a JSON list of words): the device is
 * imported from 127.0.0.1:PORT, and the command runs with vhci's end of the socket pair as descriptor 3
 * (usbip-load --fd 3 --devid ...). What it says is a line of JSON, to which the CPU time that the relay used
 * meanwhile is added. Standard input's end is its own.
 */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { parseArgs } from 'node:util';
import { importDevice } from '../../src/usbip/client.ts';
import { readDescriptors, readEndpoints } from '../../src/usbip/remote-descriptors.ts';
import { Vhci } from '../../src/usbip/vhci.ts';
import { VhciLink } from '../../src/usbip/vhci-link.ts';

/** Gives the connection to a program. */
class PlayedVhci extends Vhci {
  onAttached: (fd: number, deviceId: number) => void = () => {};

  override attach(fd: number, deviceId: number): number {
    this.onAttached(fd, deviceId);
    return 0;
  }
}

async function run(port: number, busId: string, [file = '', ...args]: string[]): Promise<object> {
  const address = { host: '127.0.0.1', port };
  const remote = await importDevice(address, busId, { holdBack: 'all' });
  const endpoints = await readEndpoints(remote, await readDescriptors(remote));
  const vhci = new PlayedVhci();
  const before = process.cpuUsage();
  let said: Promise<string> | undefined;
  vhci.onAttached = (fd, deviceId) => {
    const all = [...args, '--fd', '3', '--devid', String(deviceId)];
    const child = spawn(file, all, { stdio: ['ignore', 'pipe', 'inherit', fd] });
    said = text(child.stdout as NodeJS.ReadableStream);
  };
  const link = new VhciLink(remote, endpoints, vhci, {
    threads: { receiverSleeps: () => true, senderSleeps: () => true, close: () => {} },
  });
  const stdout = (await said) ?? '';
  const { user, system } = process.cpuUsage(before);
  await link.close();
  return { ...JSON.parse(stdout), relayCpuSeconds: (user + system) / 1e6 };
}

const { values } = parseArgs({ options: { tcp: { type: 'string' }, busid: { type: 'string' } } });
process.stdout.write('ready\n');
for await (const line of createInterface({ input: process.stdin })) {
  const result = await run(Number(values.tcp), values.busid ?? '', JSON.parse(line));
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
process.exit(0);
